/* Verbs: setting. */
#include "app/out.h"
#include "app/verb.h"
#include "store/setting.h"

static void row(const struct setting_info *s)
{
    out_str(s->name);
    out_str(s->value);
    out_str(s->fallback);
    out_str(s->type);
    out_str(s->description);
    out_row();
}

static int list(struct args *a, struct str glob, bool one)
{
    static const char *const columns[] = {"name", "value", "default", "type", "description", NULL};
    struct err e = ERR_INIT;
    struct setting_info *v;
    uint32_t n;

    if (setting_list(a->arena, glob, &v, &n, &e) != 0)
        return verb_fail(&e);
    if (one && n == 0) {
        err_set(&e, ERR_NOTFOUND, "there is no setting '%.*s'", STR_ARG(glob));
        return verb_fail(&e);
    }
    out_table(columns);
    for (uint32_t i = 0; i < n; i++)
        row(&v[i]);
    out_end();
    return EXIT_OK;
}

int verb_setting_get(struct args *a)
{
    return a->argc == 1 ? list(a, str_of(a->argv[0]), true) : EXIT_USAGE;
}

int verb_setting_list(struct args *a)
{
    return a->argc <= 1 ? list(a, str_of(a->argc ? a->argv[0] : "*"), false) : EXIT_USAGE;
}

int verb_setting_set(struct args *a)
{
    struct err e = ERR_INIT;

    if (a->argc != 2)
        return EXIT_USAGE;
    if (setting_set(str_of(a->argv[0]), str_of(a->argv[1]), STR("command line"), &e) != 0)
        return verb_fail(&e);
    out_say("%s = %s", a->argv[0], a->argv[1]);
    return EXIT_OK;
}
