#include "app/out.h"

#include "core/arena.h"
#include "core/buf.h"
#include "core/config.h"
#include "core/json.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { COLUMNS = 16, WIDTH_MAX = 60 };

static const char *const *names;
static unsigned columns;
static struct arena *arena;
static struct cell {
    struct str text;
    bool bare; /* a JSON number or boolean */
} * cells;
static size_t used, room;

void out_table(const char *const *cols)
{
    names = cols;
    for (columns = 0; cols[columns] != NULL; columns++)
        ;
    assert(columns <= COLUMNS);
    arena = arena_new(4096);
    used = 0;
}

static void add(struct str text, bool bare)
{
    if (used == room) {
        room = room ? room * 2 : 256;
        cells = xrealloc(cells, room * sizeof *cells);
    }
    cells[used++] = (struct cell){text, bare};
}

void out_str(struct str s)
{
    add(arena_dup(arena, s), false);
}

void out_int(int64_t i)
{
    add(arena_printf(arena, "%lld", (long long)i), true);
}

void out_bool(bool b)
{
    add(b ? (config.json ? STR("true") : STR("yes")) : (config.json ? STR("false") : STR("no")),
        true);
}

void out_row(void)
{
    assert(used % columns == 0);
}

static void print_json(void)
{
    struct buf b;

    buf_init(&b, 1u << 30);
    buf_addz(&b, "[");
    for (size_t i = 0; i < used; i++) {
        buf_addz(&b, i % columns == 0 ? (i ? ",\n {" : "\n {") : ", ");
        json_str(&b, str_of(names[i % columns]));
        buf_addz(&b, ": ");
        if (cells[i].bare)
            buf_add(&b, cells[i].text);
        else
            json_str(&b, cells[i].text);
        if (i % columns == columns - 1)
            buf_addz(&b, "}");
    }
    buf_addz(&b, used ? "\n]\n" : "]\n");
    fwrite(b.base + b.start, 1, b.len, stdout);
    buf_free(&b);
}

static size_t shown(struct str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.n; i++)
        n += ((unsigned char)s.p[i] & 0xC0) != 0x80;
    return n;
}

/* Control characters would let a mail's subject write to the terminal. */
static void print_cell(struct str s, size_t width, bool last)
{
    for (size_t i = 0; i < s.n; i++)
        putchar((unsigned char)s.p[i] < 32 || s.p[i] == 0x7f ? '?' : s.p[i]);
    for (size_t n = shown(s); !last && n < width + 2; n++)
        putchar(' ');
}

static void print_text(void)
{
    size_t width[COLUMNS];

    for (unsigned c = 0; c < columns; c++)
        width[c] = str_of(names[c]).n;
    for (size_t i = 0; i < used; i++) {
        size_t n = shown(cells[i].text);
        if (n > width[i % columns])
            width[i % columns] = n < WIDTH_MAX ? n : WIDTH_MAX;
    }
    for (unsigned c = 0; c < columns; c++)
        print_cell(str_of(names[c]), width[c], c == columns - 1);
    putchar('\n');
    for (size_t i = 0; i < used; i++) {
        print_cell(cells[i].text, width[i % columns], i % columns == columns - 1);
        if (i % columns == columns - 1)
            putchar('\n');
    }
}

void out_end(void)
{
    if (config.json)
        print_json();
    else
        print_text();
    arena_free(&arena);
}

void out_say(const char *fmt, ...)
{
    char text[2048];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (config.json) {
        struct buf b;
        buf_init(&b, 65536);
        buf_addz(&b, "{\"text\": ");
        json_str(&b, str_of(text));
        buf_addz(&b, "}\n");
        fwrite(b.base + b.start, 1, b.len, stdout);
        buf_free(&b);
    } else {
        puts(text);
    }
}
