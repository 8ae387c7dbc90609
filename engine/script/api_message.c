/* The message at hand: lines, parts, and the whole as zero-copy bytes.  Inside ProcessMessage only
 * (spec 5, 14.2); elsewhere these raise an error. */
#include "core/work.h"
#include "mail/encode.h"
#include "script/host_int.h"

static struct call *message_call(lua_State *L, const char *what)
{
    if (host_call == NULL || host_call->message.p == NULL)
        luaL_error(L, "%s works only while a message is at hand (in ProcessMessage)", what);
    return host_call;
}

/* VPOP3.GetMessageLines([n]) -> list of the next n lines (100) without line ends; empty at the end.
 * Reads on where the last call stopped.
 * @since 1.0 */
static int api_lines(lua_State *L)
{
    struct call *c = message_call(L, "GetMessageLines");
    lua_Integer n = luaL_optinteger(L, 1, 100);

    lua_newtable(L);
    for (lua_Integer i = 1; i <= n && c->message_pos < c->message.n; i++) {
        struct str rest = str_from(c->message, c->message_pos);
        ptrdiff_t lf = str_chr(rest, '\n');
        size_t len = lf < 0 ? rest.n : (size_t)lf;
        c->message_pos += lf < 0 ? rest.n : len + 1;
        if (len > 0 && rest.p[len - 1] == '\r')
            len--;
        budget_charge(L, len + 16);
        budget_room(L, len);
        lua_pushlstring(L, rest.p, len);
        lua_rawseti(L, -2, i);
    }
    return 1;
}

/* VPOP3.MessageReset() sets GetMessageLines back to the first line.
 * @since 1.0 */
static int api_reset(lua_State *L)
{
    message_call(L, "MessageReset")->message_pos = 0;
    return 0;
}

/* mail.Message() -> the whole message as bytes: like a string, but not copied; valid until the hook
 * returns.
 * @since 1.0 */
static int api_whole(lua_State *L)
{
    struct call *c = message_call(L, "Message");

    lua_rawgetp(L, LUA_REGISTRYINDEX, c->lease);
    bytes_push(L, c->message, c->lease, -1);
    return 1;
}

struct part {
    size_t start, body, end;
    struct str encoding;
};

static bool part_find(struct call *c, struct str path, struct part *r)
{
    size_t n = c->message.n;

    for (uint32_t i = 0; c->mime != NULL && c->mime->type == HV_LIST && i < c->mime->v.count; i++) {
        const struct hval *m = &c->mime->v.items[i];
        if (!str_eq(hv_get_str(m, "Path", STR("")), path))
            continue;
        int64_t start = hv_get_int(m, "Start", 0), body = hv_get_int(m, "BodyStart", start);
        int64_t end = hv_get_int(m, "End", (int64_t)n);
        if (start < 0 || body < start || end < body || (uint64_t)end > n)
            return false;
        *r = (struct part){(size_t)start, (size_t)body, (size_t)end,
                           hv_get_str(m, "Encoding", STR(""))};
        return true;
    }
    return false;
}

struct decoding {
    struct arena *a;
    struct str encoding, bytes;
};

static void decode(void *arg)
{
    struct decoding *d = arg;

    d->bytes = transfer_decode(d->a, transfer_of(d->encoding), d->bytes);
}

static int push_part(lua_State *L, const char *what, bool header, bool body)
{
    struct call *c = message_call(L, what);
    struct str path;
    struct part p;

    path.p = luaL_checklstring(L, 1, &path.n);
    if (!part_find(c, path, &p)) {
        lua_pushnil(L);
        return 1;
    }
    size_t from = header ? p.start : p.body, to = body ? p.end : p.body;
    struct str s = str_make(c->message.p + from, to - from);
    budget_charge(L, s.n);
    budget_room(L, s.n);
    if (!header && lua_toboolean(L, 2)) {
        struct decoding d = {scratch_push(L, s.n + 64), p.encoding, s};
        if (s.n > 262144 && c->may_await) {
            budget_await(L, what);
            work_run(decode, &d);
            budget_awaited(L, c);
        } else {
            decode(&d);
        }
        s = d.bytes;
        lua_pushlstring(L, s.p ? s.p : "", s.n);
        scratch_free(L, -2);
        return 1;
    }
    lua_pushlstring(L, s.p, s.n);
    return 1;
}

/* VPOP3.GetMessagePart(path) -> header and body of a part as received; nil when there is no such
 * part. path: the field Path of ProcessMessage's mime list.
 * @since 1.0 */
static int api_part(lua_State *L)
{
    return push_part(L, "GetMessagePart", true, true);
}

/* VPOP3.GetMessagePartHeader(path) -> the part's header lines, with the empty line.
 * @since 1.0 */
static int api_part_header(lua_State *L)
{
    return push_part(L, "GetMessagePartHeader", true, false);
}

/* VPOP3.GetMessagePartBody(path [, decoded]) -> the part's body; decoded = true undoes Base64 and
 * quoted-printable.
 * @since 1.0 */
static int api_part_body(lua_State *L)
{
    return push_part(L, "GetMessagePartBody", false, true);
}

void api_message_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"GetMessageLines", api_lines},
        {"MessageReset", api_reset},
        {"Message", api_whole},
        {"GetMessagePart", api_part},
        {"GetMessagePartHeader", api_part_header},
        {"GetMessagePartBody", api_part_body},
        {NULL, NULL},
    };

    luaL_setfuncs(L, functions, 0);
}
