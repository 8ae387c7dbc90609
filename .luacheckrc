-- Hook functions are plain globals by design: the host looks them up by name in each script's own
-- environment.  Everything else must be local.
std = "lua54"
max_line_length = 110
files["lua"] = { allow_defined_top = true }
files["examples"] = { allow_defined_top = true }
files["tests/lua"] = { globals = { "describe", "it" }, read_globals = { "host" } }
read_globals = { "VPOP3", "VPOP3Net", "mail", "default" }
