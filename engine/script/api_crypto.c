/* Digests, HMAC, hexadecimal and Base64 for scripts.
 *
 * As in the product, digests are tables of byte values (VPOP3.HexString makes text of them).  Where
 * data is expected, a string, zero-copy bytes or such a table will do. */
#include "mail/encode.h"
#include "script/host_int.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>

/* Data of argument `arg`; a table of bytes is turned into a string in its place.  NULL: bad table. */
static const char *data(lua_State *L, int arg, size_t *n_r)
{
    if (!lua_istable(L, arg))
        return bytes_check(L, arg, n_r);
    size_t n = (size_t)lua_rawlen(L, arg);
    char *p = lua_newuserdatauv(L, n ? n : 1, 0);
    for (size_t i = 0; i < n; i++) {
        int ok;
        lua_rawgeti(L, arg, (lua_Integer)i + 1);
        lua_Integer v = lua_tointegerx(L, -1, &ok);
        lua_pop(L, 1);
        budget_charge(L, 8);
        if (!ok || v < 0 || v > 255)
            return NULL;
        p[i] = (char)v;
    }
    lua_replace(L, arg);
    *n_r = n;
    return p;
}

static int push_bytes(lua_State *L, const unsigned char *p, size_t n)
{
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, p[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static int digest(lua_State *L, const EVP_MD *how)
{
    unsigned char out[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    size_t n;
    const char *p = data(L, 1, &n);

    if (p == NULL)
        return luaL_argerror(L, 1, "text or a table of bytes expected");
    budget_charge(L, n * 4);
    if (EVP_Digest(p, n, out, &len, how, NULL) != 1) {
        lua_pushnil(L);
        return 1;
    }
    return push_bytes(L, out, len);
}

/* VPOP3.MD5(text) -> table of 16 bytes.
 * For checksums of old protocols only: MD5 does not protect anything.
 * @since 1.0 */
static int api_md5(lua_State *L)
{
    return digest(L, EVP_md5());
}

/* VPOP3.SHA1(text) -> table of 20 bytes.
 * @since 1.0 */
static int api_sha1(lua_State *L)
{
    return digest(L, EVP_sha1());
}

/* VPOP3.SHA256(text) -> table of 32 bytes.
 * @since 1.0 */
static int api_sha256(lua_State *L)
{
    return digest(L, EVP_sha256());
}

/* VPOP3.SHA512(text) -> table of 64 bytes.
 * @since 1.0 */
static int api_sha512(lua_State *L)
{
    return digest(L, EVP_sha512());
}

/* VPOP3.HMAC(algorithm, key, text) -> table of bytes; nil when the algorithm is unknown.
 * algorithm: "MD5", "SHA1", "SHA256" or "SHA512", without case.
 * @since 1.0 */
static int api_hmac(lua_State *L)
{
    static const struct {
        const char *name;
        const EVP_MD *(*how)(void);
    } known[] = {{"md5", EVP_md5}, {"sha1", EVP_sha1}, {"sha256", EVP_sha256}, {"sha512", EVP_sha512}};
    unsigned char out[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    size_t name_len, key_len, n;
    const char *name = luaL_checklstring(L, 1, &name_len);
    const char *key = data(L, 2, &key_len), *p = data(L, 3, &n);

    luaL_argcheck(L, key != NULL && key_len < 65536, 2, "text or a table of bytes expected");
    luaL_argcheck(L, p != NULL, 3, "text or a table of bytes expected");
    budget_charge(L, n * 4);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_eqiz(str_make(name, name_len), known[i].name) &&
            HMAC(known[i].how(), key, (int)key_len, (const unsigned char *)p, n, out, &len) != NULL)
            return push_bytes(L, out, len);
    lua_pushnil(L);
    return 1;
}

/* VPOP3.HexString(text | bytes) -> lower-case hexadecimal digits; nil when the table holds anything
 * but numbers from 0 to 255.
 * @since 1.0 */
static int api_hex(lua_State *L)
{
    static const char digits[] = "0123456789abcdef";
    struct out o;
    size_t n;

    if (!lua_istable(L, 1) && !lua_isstring(L, 1) && !lua_isuserdata(L, 1)) {
        lua_pushnil(L);
        return 1;
    }
    const char *p = data(L, 1, &n);
    if (p == NULL) {
        lua_pushnil(L);
        return 1;
    }
    budget_charge(L, n * 2);
    out_open(L, &o);
    char *to = out_room(&o, n * 2);
    for (size_t i = 0; i < n; i++) {
        *to++ = digits[(unsigned char)p[i] >> 4];
        *to++ = digits[(unsigned char)p[i] & 15];
    }
    o.n = n * 2;
    out_push(&o);
    return 1;
}

static int hex_value(char c)
{
    if (ascii_digit(c))
        return c - '0';
    c = ascii_lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* VPOP3.UnHexString(hex) -> table of bytes; a bad pair becomes 0; nil when the argument is no text or
 * of odd length.
 * @since 1.0 */
static int api_unhex(lua_State *L)
{
    size_t n;

    if (!lua_isstring(L, 1) && !lua_isuserdata(L, 1)) {
        lua_pushnil(L);
        return 1;
    }
    const char *p = bytes_check(L, 1, &n);
    if (n % 2 != 0 || n > 64u << 20) {
        lua_pushnil(L);
        return 1;
    }
    lua_createtable(L, (int)(n / 2), 0);
    for (size_t i = 0; i < n; i += 2) {
        int high = hex_value(p[i]), low = hex_value(p[i + 1]);
        budget_charge(L, 16);
        lua_pushinteger(L, high < 0 || low < 0 ? 0 : high * 16 + low);
        lua_rawseti(L, -2, (lua_Integer)(i / 2) + 1);
    }
    return 1;
}

/* VPOP3.Base64Encode(text | bytes) -> Base64 in one line.
 * @since 1.0 */
static int api_base64_encode(lua_State *L)
{
    size_t n;
    const char *p = data(L, 1, &n);

    luaL_argcheck(L, p != NULL, 1, "text or a table of bytes expected");
    budget_charge(L, n);
    struct arena *a = scratch_push(L, n * 2 + 64);
    struct str r = base64_encode(a, str_make(p, n));
    lua_pushlstring(L, r.p ? r.p : "", r.n);
    scratch_free(L, -2);
    return 1;
}

/* VPOP3.Base64Decode(text) -> the bytes as string; nil when it is no Base64.  Line ends are skipped and
 * padding may be missing.
 * @since 1.0 */
static int api_base64_decode(lua_State *L)
{
    size_t n, kept = 0;
    const char *p = bytes_check(L, 1, &n);
    struct str r = STR("");

    budget_charge(L, n);
    struct arena *a = scratch_push(L, n * 2 + 64);
    char *clean = arena_alloc(a, n + 4);
    for (size_t i = 0; i < n; i++)
        if (p[i] != '\r' && p[i] != '\n' && p[i] != ' ' && p[i] != '\t')
            clean[kept++] = p[i];
    while (kept % 4 > 1)
        clean[kept++] = '=';
    if (base64_decode(a, str_make(clean, kept), &r))
        lua_pushlstring(L, r.p ? r.p : "", r.n);
    else
        lua_pushnil(L);
    scratch_free(L, -2);
    return 1;
}

void api_crypto_open(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"MD5", api_md5},
        {"SHA1", api_sha1},
        {"SHA256", api_sha256},
        {"SHA512", api_sha512},
        {"HMAC", api_hmac},
        {"HexString", api_hex},
        {"UnHexString", api_unhex},
        {"Base64Encode", api_base64_encode},
        {"Base64Decode", api_base64_decode},
        {NULL, NULL},
    };

    luaL_setfuncs(L, functions, 0);
}
