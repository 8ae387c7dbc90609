/* The shared segment: admission across processes, lockouts, what a dead process leaves behind. */
#include "core/shm.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct sockaddr_storage peer(const char *text)
{
    struct sockaddr_storage ss = {0};
    struct sockaddr_in *in = (struct sockaddr_in *)&ss;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;

    ss.ss_family = AF_INET;
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
        return ss;
    memset(&ss, 0, sizeof ss);
    ss.ss_family = AF_INET6;
    inet_pton(AF_INET6, text, &in6->sin6_addr);
    return ss;
}

static int enter(unsigned service, const char *from, unsigned all, unsigned client)
{
    struct sockaddr_storage p = peer(from);
    return shm_session_enter(service, &p, all, client, 0, false);
}

static void leave(unsigned service, const char *from)
{
    struct sockaddr_storage p = peer(from);
    shm_session_leave(service, &p);
}

static void test_sessions(void **state)
{
    struct sockaddr_storage p = peer("192.0.2.9");

    (void)state;
    shm_attach(1);
    for (int i = 0; i < 3; i++)
        assert_int_equal(enter(0, "192.0.2.1", 5, 3), 0);
    assert_int_equal(enter(0, "192.0.2.1", 5, 3), 2);
    assert_int_equal(enter(1, "192.0.2.1", 5, 3), 0); /* services count apart */
    leave(1, "192.0.2.1");
    assert_int_equal(enter(0, "::ffff:192.0.2.1", 5, 3), 2); /* the same client */
    assert_int_equal(enter(0, "2001:db8::1", 5, 1), 0);
    assert_int_equal(enter(0, "2001:db8::ffff", 5, 1), 2); /* one /64 */
    assert_int_equal(enter(0, "2001:db8:0:1::1", 5, 1), 0);
    assert_int_equal(enter(0, "192.0.2.2", 5, 0), 1);
    assert_int_equal(shm_sessions(0), 5);
    leave(0, "192.0.2.1");
    /* a reserved seat is only for the privileged */
    assert_int_equal(shm_session_enter(0, &p, 5, 0, 1, false), 1);
    assert_int_equal(shm_session_enter(0, &p, 5, 0, 1, true), 0);
    assert_int_equal(shm_session_enter(0, &p, 3, 0, 9, false),
                     1); /* more reserved than there are */
    shm_session_leave(0, &p);
    leave(0, "192.0.2.1");
    leave(0, "192.0.2.1");
    leave(0, "192.0.2.1"); /* once too often: nobody else's count goes down */
    assert_int_equal(enter(0, "192.0.2.1", 0, 1), 0);
    shm_reap(1);
    assert_int_equal(shm_sessions(0), 0);
    assert_int_equal(enter(0, "2001:db8::1", 5, 1), 0);
    shm_reap(1);
}

/* Eight processes at once get exactly the seats there are; those that are killed give theirs back.
 */
static void test_processes(void **state)
{
    int up[2];
    pid_t pids[8];

    (void)state;
    assert_int_equal(pipe(up), 0);
    for (unsigned i = 0; i < 8; i++) {
        pids[i] = fork();
        if (pids[i] == 0) {
            shm_attach(i + 1);
            for (int k = 0; k < 20; k++)
                if (enter(2, "192.0.2.1", 100, 50) == 0 && write(up[1], "x", 1) != 1)
                    _exit(1);
            if (write(up[1], "e", 1) != 1)
                _exit(1);
            pause();
        }
    }
    unsigned seats = 0, ended = 0;
    char c;
    while (ended < 8 && read(up[0], &c, 1) == 1)
        c == 'x' ? seats++ : ended++;
    assert_int_equal(seats, 50);
    assert_int_equal(shm_sessions(2), 50);
    for (unsigned i = 0; i < 8; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
        shm_reap(i + 1);
    }
    assert_int_equal(shm_sessions(2), 0);
    shm_attach(0);
    assert_int_equal(enter(2, "192.0.2.1", 1, 1), 0);
    leave(2, "192.0.2.1");
    close(up[0]);
    close(up[1]);
}

static void test_lockout(void **state)
{
    struct str bob = STR("bob"), here = STR("192.0.2.1");

    (void)state;
    for (int i = 0; i < 3; i++) {
        assert_false(shm_lockout(bob, here, 3, 30));
        shm_login_failed(i == 1 ? STR("BOB") : bob, here, 30);
    }
    assert_true(shm_lockout(STR("Bob"), here, 3, 30));
    assert_false(shm_lockout(bob, STR("192.0.2.2"), 3, 30));
    assert_false(shm_lockout(STR("bo"), STR("b192.0.2.1"), 3, 30));
    assert_false(shm_lockout(bob, here, 0, 30)); /* switched off */
    assert_false(shm_lockout(bob, here, 3, 0));  /* over */
    shm_login_ok(bob, here);
    assert_false(shm_lockout(bob, here, 3, 30));
    for (int i = 0; i < 3; i++)
        shm_login_failed(bob, i ? STR("2001:db8::1") : STR("2001:db8::ffff:1"), 30);
    assert_true(shm_lockout(bob, STR("2001:db8::2"), 3, 30)); /* one /64 is one client */
    assert_false(shm_lockout(bob, STR("2001:db8:0:1::2"), 3, 30));
    /* a flood of other names does not end the lock of this one soon */
    for (int i = 0; i < 3; i++)
        shm_login_failed(bob, here, 30);
    for (int i = 0; i < 2000; i++) {
        char name[20];
        snprintf(name, sizeof name, "n%d", i);
        shm_login_failed(str_of(name), here, 30);
    }
    assert_true(shm_lockout(bob, here, 3, 30));
}

static void test_watchdog(void **state)
{
    (void)state;
    shm_attach(3);
    uint64_t before = shm_beats(3);
    shm_beat();
    assert_int_equal(shm_beats(3), before + 1);
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    shm_doing(longer, "smtpsvr", 7, 99);
    struct shm_doing d = shm_doing_of(3);
    assert_int_equal(strlen(d.hook), sizeof d.hook - 1);
    assert_int_equal(shm_count_kill(&d), 1);
    assert_false(shm_is_killer(99));
    /* The same message again speaks against itself; another one against the hook. */
    assert_int_equal(shm_count_kill(&d), 1);
    assert_false(shm_is_switched_off(d.hook, "smtpsvr"));
    struct shm_doing other = d;
    other.hash = 97;
    assert_int_equal(shm_count_kill(&other), 2);
    assert_false(shm_is_killer(97));
    assert_true(shm_is_killer(99) && !shm_is_killer(98) && !shm_is_killer(0));
    assert_true(shm_is_switched_off(d.hook, "smtpsvr"));
    shm_forgive("smtpsvr");
    assert_false(shm_is_switched_off(d.hook, "smtpsvr"));
    shm_reap(3);
    d = shm_doing_of(3);
    assert_int_equal(shm_count_kill(&d), 0); /* was doing nothing */
    uint64_t g = shm_generation(GEN_ACL);
    shm_bump(GEN_ACL);
    assert_int_equal(shm_generation(GEN_ACL), g + 1);
}

static int setup(void **state)
{
    (void)state;
    shm_create();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sessions),
        cmocka_unit_test(test_processes),
        cmocka_unit_test(test_lockout),
        cmocka_unit_test(test_watchdog),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
