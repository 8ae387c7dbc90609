-- Settings and fixed rows; run after the migrations at every start, so that a new version's settings
-- appear.  One line a setting: name, type, default, least, most, description.  What an administrator
-- has set stands in the column value and is never touched here.
begin;

create temporary table seed (name text, type text, fallback text, least bigint, most bigint,
                             description text) on commit drop;

insert into seed values
('server.name', 'text', '', null, null, 'Host name for greetings, HELO and trace lines; empty: the name of the machine'),
('server.product', 'text', 'Moonpost', null, null, 'Product name in greetings and pages'),
('server.postmaster', 'text', 'postmaster', null, null, 'Main administrator: receives system messages'),
('security.min_password', 'int', '3', 1, 100, 'Minimum password length, for passwords set from now on'),
('security.lock_after', 'int', '3', 0, 100000, 'Failed sign-ins after which an account is locked for that client; 0: never'),
('security.lock_minutes', 'int', '30', 1, 100000, 'How long such a lock lasts'),
('security.lock_loopback', 'bool', 'false', null, null, 'Locks apply to clients on this machine too'),
('security.pbkdf2_rounds', 'int', '4096', 4096, 10000000, 'PBKDF2 rounds of newly stored passwords (RFC 7677 asks for 4,096)'),
('security.login_cache_minutes', 'int', '10', 0, 60, 'How long a successful sign-in is remembered; 0: verify each time'),
('routing.implicit_users', 'bool', 'true', null, null, 'Each user has the address name@domain at all local domains, besides mappings'),
('security.plaintext_auth', 'bool', 'false', null, null, 'Passwords may be sent without TLS from other machines; from this machine they always may'),
('security.max_failed_logins', 'int', '3', 1, 1000, 'Failed sign-ins in one session before it is closed'),
('smtp.host_name', 'text', '', null, null, 'Host name in the SMTP greeting; empty: server.name'),
('smtp.max_message_size', 'int', '50000000', 1000, 536870912, 'Largest message accepted, in bytes'),
('smtp.max_sessions', 'int', '500', 0, 1000000, 'SMTP sessions at once on this machine, per service; 0: no limit'),
('smtp.max_sessions_per_client', 'int', '100', 0, 65535, 'SMTP sessions at once from one client address; 0: no limit'),
('smtp.reserved_sessions', 'int', '0', 0, 1000000, 'Seats of smtp.max_sessions that only reserved clients may take'),
('smtp.reserved_clients', 'text', '', null, null, 'Networks that may take reserved seats, separated by commas'),
('smtp.relay_networks', 'text', '', null, null, 'Networks that may send to other servers without signing in, separated by commas; empty: nobody may'),
('smtp.require_auth', 'bool', 'false', null, null, 'Port 25 takes mail only from signed-in users, too'),
('smtp.require_helo', 'bool', 'true', null, null, 'MAIL needs HELO or EHLO first'),
('smtp.refuse_helo', 'text', '', null, null, 'Clients whose HELO name contains this text are refused; empty: none'),
('smtp.refuse_percent', 'bool', 'true', null, null, 'Recipients with % in the local part are refused'),
('smtp.refuse_bang', 'bool', 'true', null, null, 'Recipients with ! in the local part are refused'),
('smtp.disable_dsn', 'bool', 'false', null, null, 'The DSN extension (RFC 3461) is not offered'),
('smtp.enable_vrfy', 'bool', 'false', null, null, 'VRFY and EXPN answer'),
('smtp.max_recipients', 'int', '1000', 0, 10000, 'Recipients of one message from strangers; 0: the outer limit'),
('smtp.max_recipients_local', 'int', '10000', 0, 10000, 'Recipients of one message from signed-in users and relay networks'),
('smtp.max_messages_per_session', 'int', '0', 0, 1000000, 'Messages in one session of a stranger; 0: no limit'),
('smtp.max_messages_per_local_session', 'int', '0', 0, 1000000, 'Messages in one session of a signed-in user or relay network; 0: no limit'),
('smtp.max_line_length', 'int', '0', 0, 1000000, 'Longest line of a message in bytes without its line end; 0: no limit; 998: RFC 5321'),
('smtp.max_errors', 'int', '20', 1, 1000000, 'Protocol errors in one session before it is closed'),
('smtp.max_hops', 'int', '50', 5, 1000, 'Received lines after which a message is taken to be in a loop (RFC 5321 6.3)'),
('smtp.reverse_dns', 'bool', 'false', null, null, 'Look up the name of each client; it stands in Received only if it leads back to the address'),
('smtp.rbl_servers', 'text', '', null, null, 'DNS block lists, separated by blanks or line ends: zone, or zone(regex) that is searched in the returned address; without regex answers in 127.0.0.0/8 mean listed'),
('smtp.rbl_action', 'text', 'reject', null, null, 'Mail of listed clients that have not signed in: reject, header (take it and add X-RBLFound), blackhole (take it and throw it away) or redirect'),
('smtp.rbl_redirect', 'text', '', null, null, 'User or address that gets mail of listed clients, for smtp.rbl_action redirect'),
('smtp.rbl_whitelist', 'text', '', null, null, 'Clients that block lists are not asked about: addresses with wildcards such as 192.168.*, or networks such as 10.0.0.0/8'),
('smtp.rbl_skip_unauth', 'bool', 'true', null, null, 'Block lists are not asked about clients that may send without signing in, nor about directly attached networks'),
('smtp.rbl_timeout', 'int', '5', 1, 60, 'Seconds that the greeting waits for block lists and for the client''s name'),
('dns.servers', 'text', '', null, null, 'DNS servers to ask: address or address@port, separated by commas; empty: those of the system'),
('dns.trust_anchor_file', 'text', '', null, null, 'File with DNSSEC trust anchors; empty: answers are not validated'),
('smtp.timeout', 'int', '300', 10, 3600, 'Seconds without input before a session is closed (RFC 5321 4.5.3.2.7)'),
('pop3.max_sessions', 'int', '500', 0, 1000000, 'POP3 sessions at once on this machine, per service; 0: no limit'),
('pop3.max_sessions_per_client', 'int', '100', 0, 65535, 'POP3 sessions at once from one client address; 0: no limit'),
('pop3.timeout', 'int', '600', 60, 86400, 'Seconds without input before a session is closed (RFC 1939 3)'),
('imap.max_sessions', 'int', '1000', 0, 1000000, 'IMAP sessions at once on this machine, per service; 0: no limit'),
('imap.max_sessions_per_client', 'int', '1000', 0, 65535, 'IMAP sessions at once from one client address; 0: no limit'),
('imap.max_sessions_per_user', 'int', '20', 0, 65535, 'IMAP sessions at once of one user; 0: no limit'),
('imap.login_timeout', 'int', '180', 10, 86400, 'Seconds without input before a session that has not signed in is closed'),
('imap.timeout', 'int', '1800', 1800, 86400, 'Seconds without input before a signed-in session is closed (RFC 3501 5.4: at least 30 minutes)'),
('imap.idle', 'bool', 'true', null, null, 'The IDLE command is offered'),
('imap.idle_notify', 'int', '120', 0, 1500, 'Seconds between lines that keep an IDLE connection alive; 0: none'),
('imap.max_append_size', 'int', '100000000', 1000, 536870912, 'Largest message that APPEND takes, in bytes'),
('imap.max_fetches', 'int', '50', 0, 65535, 'FETCH commands over several messages at once on this machine; 0: no limit'),
('imap.max_fetches_per_user', 'int', '5', 0, 65535, 'FETCH commands over several messages at once of one user; 0: no limit'),
('imap.fetch_wait', 'int', '40', 0, 600, 'Seconds a FETCH waits for its turn before it is refused'),
('imap.max_searches_per_user', 'int', '2', 0, 65535, 'Searches in message contents at once of one user; 0: no limit'),
('imap.search_wait', 'int', '30', 0, 600, 'Seconds such a search waits for its turn before it is refused'),
('pop3.hold_deleted', 'bool', 'false', null, null, 'DELE puts messages on hold instead of deleting them'),
('storage.undelete_days', 'int', '14', 0, 3650, 'Days that expunged messages stay in the recycle bin; 0: none'),
('storage.ledger_days', 'int', '30', 1, 3650, 'Days that decisions are kept'),
('storage.disk_check', 'bool', 'true', null, null, 'Check free disk space'),
('storage.disk_refuse_mb', 'int', '500', 0, 100000000, 'Free megabytes below which SMTP connections are refused'),
('storage.disk_message_mb', 'int', '100', 0, 100000000, 'Free megabytes below which new mail is refused'),
('script.cpu_slice_ms', 'int', '10', 1, 50, 'Milliseconds that a script computes before other sessions have their turn'),
('script.cpu_seconds', 'int', '2', 1, 600, 'Computing time of one call of a hook'),
('script.wall_seconds', 'int', '60', 1, 3600, 'Time of one call of a hook with all its waits'),
('script.memory_mb', 'int', '32', 1, 512, 'Megabytes by which a script may grow in one call; in all its life it may hold four times that'),
('script.max_waits', 'int', '1000', 1, 1000000, 'Waits of one call of a hook: database, DNS, files, sleep'),
('script.max_queries', 'int', '200', 1, 1000000, 'Questions to the database in one call of a hook'),
('script.max_output_kb', 'int', '256', 1, 16384, 'Kilobytes that one call of a hook may print or log'),
('script.message_seconds', 'int', '45', 5, 500, 'Time of all hooks together between the end of a message and its answer (RFC 5321 4.5.3.2.6: clients wait 10 minutes)'),
('script.folders', 'text', '', null, null, 'Folders that scripts may read and write with io, separated by semicolons; empty: only the scratch folder of each call'),
('script.scratch_mb', 'int', '64', 0, 100000, 'Megabytes that one call may write to files'),
('storage.max_keyword_bytes', 'int', '63', 8, 63, 'Longest name of a keyword flag')
;

insert into setting (name, type, fallback, least, most, description)
    select * from seed
    on conflict (name) do update
        set type = excluded.type, fallback = excluded.fallback, least = excluded.least,
            most = excluded.most, description = excluded.description
        where (setting.type, setting.fallback, setting.description) is distinct from
              (excluded.type, excluded.fallback, excluded.description)
           or setting.least is distinct from excluded.least
           or setting.most is distinct from excluded.most;

insert into user_group (id, name, built_in, comment) values
    (1, 'everyone', 'everyone', 'All users but those with "in everyone" switched off'),
    (2, 'admins', 'admins', 'All administrators'),
    (3, 'no-one', 'nobody', 'Always empty: mail to it is discarded')
    on conflict do nothing;

commit;
