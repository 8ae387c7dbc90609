/* Digests, HMAC, hexadecimal and Base64 for scripts.
 *
 * As in the product, digests are tables of byte values (VPOP3.HexString makes text of them).  Where
 * data is expected, a string, zero-copy bytes or such a table will do. */
#include "mail/encode.h"
#include "script/host_int.h"

#include <openssl/evp.h>

/* Data of argument `arg`; a table of bytes is turned into a string in its place.  NULL: bad table.
 */
static const char *data(lua_State *L, int arg, size_t *n_r)
{
    if (!lua_istable(L, arg))
        return bytes_check(L, arg, n_r);
    size_t n = (size_t)lua_rawlen(L, arg);
    budget_room(L, n);
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

/* A digest under way; a userdata, since a look at the budget can raise. */
#define DIGEST "mail.digest"

static int digest_gc(lua_State *L)
{
    EVP_MD_CTX **ctx = lua_touserdata(L, 1);

    EVP_MD_CTX_free(*ctx);
    *ctx = NULL;
    return 0;
}

static EVP_MD_CTX *digest_begin(lua_State *L, const EVP_MD *how)
{
    EVP_MD_CTX **ctx = lua_newuserdatauv(L, sizeof *ctx, 0);

    *ctx = NULL;
    luaL_setmetatable(L, DIGEST);
    *ctx = EVP_MD_CTX_new();
    if (*ctx == NULL || EVP_DigestInit_ex(*ctx, how, NULL) != 1)
        luaL_error(L, "no such digest here");
    return *ctx;
}

/* Pieces of a millisecond. */
static void digest_add(lua_State *L, EVP_MD_CTX *ctx, const void *p, size_t n)
{
    for (const char *from = p; n > 0;) {
        size_t some = n < 65536 ? n : 65536;
        EVP_DigestUpdate(ctx, from, some);
        budget_charge(L, some * 4);
        from += some;
        n -= some;
    }
}

static int digest(lua_State *L, const EVP_MD *how)
{
    unsigned char out[EVP_MAX_MD_SIZE];
    unsigned len = 0;
    size_t n;
    const char *p = data(L, 1, &n);

    if (p == NULL)
        return luaL_argerror(L, 1, "text or a table of bytes expected");
    EVP_MD_CTX *ctx = digest_begin(L, how);
    digest_add(L, ctx, p, n);
    if (EVP_DigestFinal_ex(ctx, out, &len) != 1) {
        lua_pushnil(L);
        return 1;
    }
    return push_bytes(L, out, len);
}

/* RFC 2104, by hand so that the text can be taken in pieces. */
static unsigned hmac(lua_State *L, const EVP_MD *how, const char *key, size_t key_len,
                     const char *p, size_t n, unsigned char out[EVP_MAX_MD_SIZE])
{
    unsigned char block[128] = {0}, pad[128];
    size_t size = (size_t)EVP_MD_get_block_size(how);
    unsigned len = 0;

    if (size > sizeof block)
        luaL_error(L, "no such digest here");
    if (key_len > size)
        EVP_Digest(key, key_len, block, &len, how, NULL);
    else
        memcpy(block, key, key_len);
    for (size_t i = 0; i < size; i++)
        pad[i] = block[i] ^ 0x36;
    EVP_MD_CTX *ctx = digest_begin(L, how);
    EVP_DigestUpdate(ctx, pad, size);
    digest_add(L, ctx, p, n);
    EVP_DigestFinal_ex(ctx, out, &len);
    for (size_t i = 0; i < size; i++)
        pad[i] = block[i] ^ 0x5c;
    ctx = digest_begin(L, how);
    EVP_DigestUpdate(ctx, pad, size);
    EVP_DigestUpdate(ctx, out, len);
    EVP_DigestFinal_ex(ctx, out, &len);
    return len;
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
    } known[] = {
        {"md5", EVP_md5}, {"sha1", EVP_sha1}, {"sha256", EVP_sha256}, {"sha512", EVP_sha512}};
    unsigned char out[EVP_MAX_MD_SIZE];
    size_t name_len, key_len, n;
    const char *name = luaL_checklstring(L, 1, &name_len);
    const char *key = data(L, 2, &key_len), *p = data(L, 3, &n);

    luaL_argcheck(L, key != NULL && key_len < 65536, 2, "text or a table of bytes expected");
    luaL_argcheck(L, p != NULL, 3, "text or a table of bytes expected");
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_eqiz(str_make(name, name_len), known[i].name))
            return push_bytes(L, out, hmac(L, known[i].how(), key, key_len, p, n, out));
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
    out_open(L, &o);
    out_room(&o, n * 2);
    for (size_t i = 0; i < n; i++) {
        char pair[2] = {digits[(unsigned char)p[i] >> 4], digits[(unsigned char)p[i] & 15]};
        out_add(&o, pair, 2);
        budget_charge(L, 4);
    }
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

/* VPOP3.UnHexString(hex) -> table of bytes; a bad pair becomes 0; nil when the argument is no text
 * or of odd length.
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
    struct out o;
    out_open(L, &o);
    for (size_t i = 0; i < n; i += 48000) {
        size_t some = n - i < 48000 ? n - i : 48000;
        struct arena *a = scratch_push(L, 65536);
        struct str r = base64_encode(a, str_make(p + i, some));
        out_add(&o, r.p, r.n);
        scratch_free(L, -1);
        lua_pop(L, 1);
        budget_charge(L, some);
    }
    out_push(&o);
    return 1;
}

/* VPOP3.Base64Decode(text) -> the bytes as string; nil when it is no Base64.  Line ends are skipped
 * and padding may be missing.
 * @since 1.0 */
static int api_base64_decode(lua_State *L)
{
    enum { PIECE = 16384 }; /* a multiple of four */
    size_t n, kept = 0;
    const char *p = bytes_check(L, 1, &n);
    bool good = true, padded = false;
    struct out o;

    out_open(L, &o);
    char *clean = lua_newuserdatauv(L, PIECE + 4, 0);
    for (size_t i = 0; good && i <= n; i++) {
        if ((i & 0xfff) == 0xfff)
            budget_charge(L, 8192);
        if (i < n && p[i] != '\r' && p[i] != '\n' && p[i] != ' ' && p[i] != '\t')
            clean[kept++] = p[i];
        if (kept < PIECE && i < n)
            continue;
        while (i == n && kept % 4 > 1)
            clean[kept++] = '=';
        if (kept == 0)
            continue;
        struct arena *a = scratch_push(L, PIECE + 64);
        struct str r = STR("");
        good = !padded && base64_decode(a, str_make(clean, kept), &r);
        padded = clean[kept - 1] == '=';
        if (good)
            out_add(&o, r.p, r.n);
        scratch_free(L, -1);
        lua_pop(L, 1);
        kept = 0;
    }
    if (good)
        out_push(&o);
    else
        lua_pushnil(L);
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

    luaL_newmetatable(L, DIGEST);
    lua_pushcfunction(L, digest_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    luaL_setfuncs(L, functions, 0);
}
