#include "store/message_tree.h"

#include "store/db.h"

int message_trees(const uint64_t *heads, uint32_t n, struct arena *a, struct message_tree *out,
                  struct err *e)
{
    const struct rows *r;

    for (uint32_t i = 0; i < n; i++)
        out[i] = (struct message_tree){STR(""), STR("")};
    if (n == 0)
        return 0;
    if (db_exec(
            a, &r, e,
            "select u.o, h.bytes, h.structure from unnest($1::bigint[]) with ordinality u(id, o) "
            "join head h on h.id = u.id",
            DB_ARGS(db_ints((const int64_t *)heads, n))) != 0)
        return -1;
    for (uint32_t i = 0; i < rows_count(r); i++) {
        int64_t at = rows_int(r, i, 0) - 1;
        if (at < 0 || at >= n)
            continue;
        out[at].head = rows_str(r, i, 1);
        if (!rows_null(r, i, 2))
            out[at].structure = rows_str(r, i, 2);
    }
    return 0;
}
