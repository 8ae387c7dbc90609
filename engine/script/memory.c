/* The allocator of the Lua state.
 *
 * Each block is preceded by eight bytes that name the purse it was paid from.  A call that grows
 * beyond its cap is looked at with its next instruction, where garbage is collected step by step
 * before it is judged.  Only twice the cap is refused here, since a refusal makes Lua collect
 * everything at once; it ends the call.  Blocks outlive purses: a closed purse's number is taken
 * out of use by its generation. */
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
static size_t since_step;                    /* bytes allocated */
static size_t cycle_start = SCRIPT_GC_START; /* total at which the next cycle begins */
static bool in_cycle;
static uint64_t cycles;

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

static void *refuse(void)
{
    if (host_call != NULL && host_call->env != NULL)
        budget_kill(host_call, KILL_MEMORY, host_call->running);
    return NULL;
}

int memory_tick(const struct purse *p)
{
    size_t n = p != NULL && p->largest > 0 ? SCRIPT_TICK_WORK / p->largest : SCRIPT_TICK;

    return n > SCRIPT_TICK ? SCRIPT_TICK : n < 1 ? 1 : (int)n;
}

/* The current call's next look at the clock comes sooner; lua_sethook() may be called at any time.
 */
static void look_soon(int count)
{
    if (host_call != NULL && host_call->running != NULL && host_call->kill == KILL_NO)
        lua_sethook(host_call->running, budget_tick, LUA_MASKCOUNT, count);
}

static void *host_alloc(void *ud, void *ptr, size_t osize, size_t nsize)
{
    struct head *h = ptr ? (struct head *)ptr - 1 : NULL;
    bool text = h == NULL && osize == LUA_TSTRING;

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
    bool mine = p != NULL && p == current && p->cap != 0 && host_call != NULL;
    if (nsize > osize) {
        size_t grow = nsize - osize;
        if (mine && p->used + grow > p->cap * 2)
            return refuse();
        if (total + grow > SCRIPT_HOST_MEMORY + SCRIPT_HOST_MEMORY / 4)
            return refuse();
    }
    struct head *fresh = realloc(h, sizeof *fresh + nsize);
    if (fresh == NULL)
        return nsize <= osize ? ptr : NULL;
    if (h == NULL)
        *fresh = p ? (struct head){p->slot, p->gen} : (struct head){0, 0};
    total = total - osize + nsize;
    since_step += nsize;
    if (p != NULL)
        p->used = p->used + nsize - (osize < p->used ? osize : p->used);
    if (mine && text && nsize > p->largest) {
        p->largest = nsize;
        look_soon(memory_tick(p));
    }
    if (mine && !p->over && p->used > p->cap) {
        p->over = true;
        look_soon(1);
    }
    return fresh + 1;
}

bool memory_step_due(void)
{
    return (in_cycle || total > cycle_start) && since_step >= SCRIPT_GC_PACE;
}

void memory_step(lua_State *L)
{
    since_step = since_step > SCRIPT_GC_PACE ? since_step - SCRIPT_GC_PACE : 0;
    in_cycle = true;
    if (lua_gc(L, LUA_GCSTEP, 0) == 0)
        return;
    cycles++;
    in_cycle = false;
    since_step = 0;
    size_t most = total + SCRIPT_GC_START > SCRIPT_HOST_MEMORY / 4 * 3 ? total + SCRIPT_GC_START
                                                                       : SCRIPT_HOST_MEMORY / 4 * 3;
    cycle_start = total * 2 > SCRIPT_GC_START ? total * 2 : SCRIPT_GC_START;
    if (cycle_start > most)
        cycle_start = most;
}

uint64_t memory_cycles(void)
{
    return cycles;
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

    if (L != NULL) {
        lua_atpanic(L, panic);
        /* Steps of fixed size, made by memory_step() alone. */
        lua_gc(L, LUA_GCINC, 200, 100, 13);
        lua_gc(L, LUA_GCSTOP);
    }
    return L;
}
