/* The allocator of the Lua state.
 *
 * Each block is preceded by eight bytes that name the purse it was paid from.  A purse with a cap
 * refuses growth beyond it while its own call is running; Lua then collects garbage and asks again,
 * and a second refusal ends the call.  Blocks outlive purses: a closed purse's number is taken out of
 * use by its generation. */
#include "core/log.h"
#include "script/host_int.h"

#include <stdlib.h>

struct head {
    uint32_t slot, gen;
};

struct slot {
    struct purse *purse;
    uint32_t gen;
    uint32_t next_free;
};

static struct slot *slots;
static uint32_t slot_count, slot_free;
static struct purse *current;
static size_t total;
static size_t refused_size;

void purse_open(struct purse *p, size_t cap)
{
    uint32_t i = slot_free;

    if (i == 0) {
        /* Slot 0 stands for the host itself. */
        uint32_t old = slot_count, count = old ? old * 2 : 64;
        slots = xrealloc(slots, count * sizeof *slots);
        memset(slots + old, 0, (count - old) * sizeof *slots);
        for (uint32_t j = count; j-- > (old ? old : 1);) {
            slots[j].next_free = slot_free;
            slot_free = j;
        }
        slot_count = count;
        i = slot_free;
    }
    slot_free = slots[i].next_free;
    *p = (struct purse){.cap = cap, .slot = i, .gen = slots[i].gen};
    slots[i].purse = p;
}

void purse_close(struct purse *p)
{
    struct slot *s = &slots[p->slot];

    s->purse = NULL;
    s->gen++;
    s->next_free = slot_free;
    slot_free = p->slot;
    if (current == p)
        current = NULL;
}

struct purse *memory_switch(struct purse *p)
{
    struct purse *old = current;

    current = p;
    return old;
}

size_t memory_total(void)
{
    return total;
}

static struct purse *owner(const struct head *h)
{
    if (h->slot == 0 || h->slot >= slot_count || slots[h->slot].gen != h->gen)
        return NULL;
    return slots[h->slot].purse;
}

/* Twice the same size refused in a row: the collection in between did not help. */
static void *refuse(struct purse *p, size_t size)
{
    if (host_call != NULL && host_call->env != NULL) {
        if (refused_size == size || (p != NULL && size > p->cap))
            budget_kill(host_call, KILL_MEMORY, host_call->running);
        else
            budget_note(host_call);
    }
    refused_size = size;
    return NULL;
}

static void *host_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
    struct head *h = ptr ? (struct head *)ptr - 1 : NULL;

    (void)ud;
    if (h == NULL)
        osize = 0;
    struct purse *p = h ? owner(h) : current;
    if (nsize == 0) {
        if (h != NULL) {
            if (p != NULL)
                p->used -= osize < p->used ? osize : p->used;
            total -= osize;
            free(h);
        }
        return NULL;
    }
    if (nsize > osize) {
        size_t grow = nsize - osize;
        if (p != NULL && p->cap != 0 && p == current && host_call != NULL &&
            p->used + grow > p->cap)
            return refuse(p, nsize);
        if (total + grow > SCRIPT_HOST_MEMORY)
            return refuse(NULL, nsize);
    }
    struct head *fresh = realloc(h, sizeof *fresh + nsize);
    if (fresh == NULL)
        return nsize <= osize ? ptr : NULL;
    refused_size = 0;
    if (h == NULL)
        *fresh = p ? (struct head){p->slot, p->gen} : (struct head){0, 0};
    total = total - osize + nsize;
    if (p != NULL)
        p->used = p->used + nsize - (osize < p->used ? osize : p->used);
    return fresh + 1;
}

static int panic(lua_State *L)
{
    const char *text = lua_tostring(L, -1);

    log_error("script", "the Lua host failed outside of any call: %s", text ? text : "?");
    return 0; /* Lua aborts: the supervisor starts a new worker */
}

lua_State *memory_new_state(void)
{
    lua_State *L = lua_newstate(host_alloc, NULL);

    if (L != NULL)
        lua_atpanic(L, panic);
    return L;
}
