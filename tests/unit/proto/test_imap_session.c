/* Whole IMAP dialogues against a real store: the server runs on the loop, the client on a thread of
 * its own at the other end of a socket pair. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "mail/date.h"
#include "proto/session.h"
#include "store/account.h"
#include "store/mailbox.h"
#include "support/pg.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cmocka.h>

static const struct service svc = {SERVICE_IMAP, SERVICE_STARTTLS, 5, "imap", NULL};

/* --- the client.  Script lines: "> text" sends text and CRLF; "< pattern" is the next line, `*`
 * any run of characters; "<* pattern" skips lines up to one that matches; "<!" the end of the
 * connection. A digit in front names the connection, 1 if there is none. */
struct conn {
    int fd;
    char in[1 << 18];
    size_t n;
};
static struct conn conns[3];
static const char *const *script;
static char failure[4000];

static bool fill(struct conn *c)
{
    ssize_t r = recv(c->fd, c->in + c->n, sizeof c->in - c->n, 0);
    if (r <= 0)
        return false;
    c->n += (size_t)r;
    return true;
}

static bool read_line(struct conn *c, char *out, size_t size)
{
    char *lf;
    while ((lf = memchr(c->in, '\n', c->n)) == NULL)
        if (!fill(c))
            return false;
    size_t n = (size_t)(lf - c->in) + 1;
    snprintf(out, size, "%.*s", (int)(n >= 2 && lf[-1] == '\r' ? n - 2 : n - 1), c->in);
    memmove(c->in, c->in + n, c->n - n);
    c->n -= n;
    return true;
}

static void expect(struct conn *c, const char *step)
{
    static char line[65536];
    bool skip = step[1] == '*';
    const char *want = step + (skip ? 3 : 2);
    char last[1000] = "";

    do {
        if (!read_line(c, line, sizeof line)) {
            snprintf(failure, sizeof failure, "closed; wanted <%s>, last was <%s>", want, last);
            return;
        }
        snprintf(last, sizeof last, "%.900s", line);
    } while (skip && !str_glob(str_of(want), str_of(line)));
    if (!str_glob(str_of(want), str_of(line)))
        snprintf(failure, sizeof failure, "got <%s>, wanted <%s>", last, want);
}

static void *client_main(void *arg)
{
    (void)arg;
    for (const char *const *s = script; *s && !failure[0]; s++) {
        const char *step = *s;
        struct conn *c = &conns[0];
        if (ascii_digit(step[0]))
            c = &conns[*step++ - '1'];
        if (step[0] == '>') {
            char line[4000];
            size_t n = (size_t)snprintf(line, sizeof line, "%s\r\n", step + 2);
            if (send(c->fd, line, n, MSG_NOSIGNAL) != (ssize_t)n)
                snprintf(failure, sizeof failure, "cannot send: %s", step);
        } else if (strcmp(step, "<!") == 0) {
            if (c->n > 0 || fill(c))
                snprintf(failure, sizeof failure, "not closed: %.*s", (int)c->n, c->in);
        } else {
            expect(c, step);
        }
    }
    for (unsigned i = 0; i < 3; i++)
        if (conns[i].fd >= 0)
            close(conns[i].fd);
    return NULL;
}

static void wait_sessions(void *arg)
{
    (void)arg;
    while (imap_session_count() > 0)
        task_sleep(5, NULL);
}

static void connect_one(struct conn *c)
{
    int fd[2];
    struct sockaddr_storage peer;
    struct sockaddr_in in4 = {.sin_family = AF_INET};
    struct timeval limit = {.tv_sec = 20};

    in4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(&peer, 0, sizeof peer);
    memcpy(&peer, &in4, sizeof in4);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fd), 0);
    fcntl(fd[0], F_SETFL, O_NONBLOCK);
    setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    c->fd = fd[1];
    c->n = 0;
    imap_accept(&svc, fd[0], &peer);
}

static void run(unsigned connections, const char *const *lines)
{
    pthread_t t;

    failure[0] = '\0';
    script = lines;
    for (unsigned i = 0; i < 3; i++) {
        conns[i].fd = -1;
        if (i < connections)
            connect_one(&conns[i]);
    }
    pthread_create(&t, NULL, client_main, NULL);
    task_run_main(wait_sessions, NULL);
    pthread_join(t, NULL);
    if (failure[0])
        fail_msg("%s", failure);
}

#define SCRIPT(...) ((const char *const[]){__VA_ARGS__, NULL})
#define LOGIN                                                                                      \
    "< * OK [CAPABILITY IMAP4rev1 *", "> a LOGIN user secret", "< a OK [CAPABILITY *] Signed in"

static void test_not_signed_in(void **state)
{
    (void)state;
    run(1, SCRIPT("< * OK [CAPABILITY IMAP4rev1 LITERAL+ * AUTH=PLAIN*", "> 1 CAPABILITY",
                  "< * CAPABILITY IMAP4rev1 *", "< 1 OK *", "> 2 NOOP", "< 2 OK *",
                  "> 3 SELECT INBOX", "< 3 BAD *", "> 4 FOO", "< 4 BAD *", "> nonsense",
                  "< nonsense BAD *", "> ", "> 5 ID NIL", "< * ID (\"name\" *", "< 5 OK *",
                  "> 6 ID (\"name\" \"x\" \"version\" NIL)", "< * ID *", "< 6 OK *", "> 7 STARTTLS",
                  "< 7 BAD *", "> 8 LOGOUT", "< * BYE *", "< 8 OK *", "<!"));
}

static void test_sign_in(void **state)
{
    (void)state;
    run(1,
        SCRIPT("< * OK *", "> 1 LOGIN user {6}", "< + OK", "> secret", "< 1 OK *",
               "> 2 LOGIN user secret", "< 2 BAD *", "> 3 LOGOUT", "< * BYE *", "< 3 OK *", "<!"));
    run(1, SCRIPT("< * OK *", "> 1 LOGIN {4+}", "> user {6+}", "> secret", "< 1 OK *"));
    /* PLAIN with and without an initial response; cancelled */
    run(1, SCRIPT("< * OK *", "> 1 AUTHENTICATE PLAIN", "< + ", "> *", "< 1 BAD *",
                  "> 2 AUTHENTICATE PLAIN AHVzZXIAc2VjcmV0", "< 2 OK *"));
    run(1, SCRIPT("< * OK *", "> 1 AUTHENTICATE PLAIN", "< + ", "> AHVzZXIAc2VjcmV0", "< 1 OK *",
                  "> 2 AUTHENTICATE PLAIN", "< 2 BAD *"));
}

static void test_wrong(void **state)
{
    (void)state;
    run(1, SCRIPT("< * OK *", "> 1 LOGIN user wrong", "< 1 NO [AUTHENTICATIONFAILED]*",
                  "> 2 LOGIN nobody x", "< 2 NO [AUTHENTICATIONFAILED]*", "> 3 LOGIN user wrong",
                  "< 3 NO [AUTHENTICATIONFAILED]*", "< * BYE *", "<!"));
}

static void test_mailboxes(void **state)
{
    (void)state;
    run(1,
        SCRIPT(LOGIN, "> 1 LIST \"\" \"\"", "< * LIST (\\Noselect) \"/\" \"\"", "< 1 OK *",
               "> 2 CREATE a/b/c", "< 2 OK *", "> 3 CREATE a/b", "< 3 NO [ALREADYEXISTS]*",
               "> 4 CREATE sent (USE (\\Sent))", "< 4 OK *", "> 5 LIST \"\" %", "<* * \"/\" INBOX",
               "< * LIST (\\HasChildren) \"/\" a", "<* * LIST (\\HasNoChildren \\Sent) \"/\" sent",
               "<* 5 OK *", "> 6 LIST \"\" a/*", "< * LIST (\\HasChildren) \"/\" a/b",
               "< * LIST (\\HasNoChildren) \"/\" a/b/c", "< 6 OK *", "> 7 CREATE &AOQ-", "< 7 OK *",
               "> 8 LIST \"\" &AOQ-", "< * LIST * \"/\" &AOQ-", "< 8 OK *", "> 9 CREATE x&y",
               "< 9 NO [CANNOT] *", "> 10 CREATE \"x*y\"", "< 10 NO [CANNOT]*",
               "> 11 SUBSCRIBE a/b/c", "< 11 OK *", "> 12 LSUB \"\" %",
               "<* * LSUB (\\Noselect) \"/\" a", "<* 12 OK *", "> 13 LSUB \"\" a/*",
               "< * LSUB (\\Noselect) \"/\" a/b", "< * LSUB () \"/\" a/b/c", "< 13 OK *"));
    run(1, SCRIPT(LOGIN, "> 1 LIST (SUBSCRIBED RECURSIVEMATCH) \"\" a RETURN (CHILDREN)",
                  "< * LIST (\\HasChildren) \"/\" a (\"CHILDINFO\" (\"SUBSCRIBED\"))", "< 1 OK *",
                  "> 2 LIST \"\" (sent a) RETURN (STATUS (MESSAGES UIDNEXT) SUBSCRIBED)",
                  "< * LIST * a", "< * STATUS a (MESSAGES 0 UIDNEXT 1)", "< * LIST * sent",
                  "< * STATUS sent *", "< 2 OK *", "> 3 RENAME a z", "< 3 OK *",
                  "> 4 STATUS z/b/c (MESSAGES RECENT UNSEEN UIDNEXT SIZE)",
                  "< * STATUS z/b/c (MESSAGES 0 RECENT 0 UIDNEXT 1 UNSEEN 0 SIZE 0)", "< 4 OK *",
                  "> 5 DELETE z/b", "< 5 OK *", "> 6 SELECT z/b", "< 6 NO *", "> 7 DELETE z/b/c",
                  "< 7 OK *", "> 8 DELETE z/b/c", "< 8 NO [NONEXISTENT]*",
                  "> 9 STATUS nowhere (MESSAGES)", "< 9 NO [NONEXISTENT]*", "> 10 DELETE inbox",
                  "< 10 NO [CANNOT]*", "> 11 NAMESPACE", "< * NAMESPACE ((\"\" \"/\")) NIL NIL",
                  "< 11 OK *", "> 12 ENABLE CONDSTORE", "< * ENABLED", "< 12 OK *",
                  "> 13 LIST \"\" \"*\" RETURN (FOO)", "< 13 BAD *"));
}

#define HELLO "From: A <a@b>\r\nSubject: hello\r\nDate: 1 Jan 2020 00:00:00 +0000\r\n\r\nbody text"

static void test_messages(void **state)
{
    (void)state;
    run(1,
        SCRIPT(LOGIN, "> 1 CREATE work", "< 1 OK *",
               "> 2 APPEND work (\\Seen foo) \"01-Feb-2020 10:00:00 +0100\" {75}", "< + OK",
               "> " HELLO, "< 2 OK [APPENDUID * 1]*", "> 3 APPEND work {75+}", "> " HELLO,
               "< 3 OK [APPENDUID * 2]*", "> 4 APPEND nowhere {3+}", "> abc", "< 4 NO [TRYCREATE]*",
               "> 5 APPEND nowhere {3}", "< 5 NO [TRYCREATE]*", "> 6 APPEND work {0+}", "> ",
               "< 6 NO *", "> 7 APPEND work {3+}", "> abc x", "< 7 BAD *", "> 8 SELECT work",
               "< * FLAGS (* foo)", "< * OK [PERMANENTFLAGS (* foo \\*)]*", "< * 2 EXISTS",
               "< * 2 RECENT", "< * OK [UNSEEN 2]*", "< * OK [UIDVALIDITY *", "< * OK [UIDNEXT 3]*",
               "< 8 OK [READ-WRITE]*", "> 9 FETCH 1:2 (FLAGS UID INTERNALDATE RFC822.SIZE)",
               "< * 1 FETCH (UID 1 FLAGS (\\Seen foo \\Recent) INTERNALDATE \"01-Feb-2020 09:00:00 "
               "+0000\" RFC822.SIZE 75)",
               "< * 2 FETCH (UID 2 FLAGS (\\Recent) *", "< 9 OK *", "> 10 FETCH 2 BODY[TEXT]",
               "< * 2 FETCH (FLAGS (\\Seen \\Recent) BODY[TEXT] {9}", "< body text)", "< 10 OK *",
               "> 11 UID FETCH 2 (ENVELOPE BODYSTRUCTURE BODY.PEEK[HEADER.FIELDS (SUBJECT)])",
               "< * 2 FETCH (UID 2 ENVELOPE (\"1 Jan 2020 00:00:00 +0000\" \"hello\" ((\"A\" NIL "
               "\"a\" \"b\")) * "
               "BODYSTRUCTURE (\"text\" \"plain\" NIL NIL NIL \"7bit\" 9 1 NIL NIL NIL NIL) "
               "BODY[HEADER.FIELDS (SUBJECT)] {18}",
               "< Subject: hello", "< ", "< )", "< 11 OK *", "> 12 FETCH 3 FLAGS", "< 12 BAD *",
               "> 13 UID FETCH 99 FLAGS", "< 13 OK *", "> 14 STORE 1:2 +FLAGS (\\Flagged bar)",
               "< * FLAGS *", "< * OK [PERMANENTFLAGS *",
               "< * 1 FETCH (FLAGS (\\Flagged \\Seen foo bar \\Recent))",
               "< * 2 FETCH (FLAGS (\\Flagged \\Seen bar \\Recent))", "< 14 OK *",
               "> 15 UID STORE 2 FLAGS.SILENT (\\Deleted)", "< 15 OK *", "> 16 SEARCH DELETED",
               "< * SEARCH 2", "< 16 OK *", "> 17 UID SEARCH SUBJECT hello BODY text",
               "< * SEARCH 1 2", "< 17 OK *", "> 18 SEARCH CHARSET x-no ALL",
               "< 18 NO [BADCHARSET*", "> 19 SEARCH SINCE 1-Jan-2021 SEEN", "< * SEARCH",
               "< 19 OK *", "> 20 COPY 1 nowhere", "< 20 NO [TRYCREATE]*", "> 21 COPY 1:2 INBOX",
               "< 21 OK [COPYUID * 1:2 1:2]*", "> 22 EXPUNGE", "< * 2 EXPUNGE", "< 22 OK *",
               "> 23 CLOSE", "< 23 OK *", "> 24 FETCH 1 FLAGS", "< 24 BAD *", "> 25 EXAMINE INBOX",
               "<* * 2 EXISTS", "<* 25 OK [READ-ONLY]*", "> 26 STORE 1 +FLAGS \\Seen", "< 26 NO *",
               "> 27 FETCH 1 BODY[]<5.3>", "< * 1 FETCH (BODY[]<5> {3}", "<  A )", "< 27 OK *",
               "> 28 UNSELECT", "< 28 OK *", "> 29 SELECT INBOX", "<* 29 OK *", "> 30 MOVE 2 work",
               "< * OK [COPYUID * 2 3]*", "< * 2 EXPUNGE", "< 30 OK *", "> 31 UID EXPUNGE 1",
               "< 31 OK *", "> 32 CHECK", "< 32 OK *", "> 33 FETCH 1 (FLAGS", "< 33 BAD *",
               "> 34 LOGOUT", "<* 34 OK *", "<!"));
}

/* Pipelined commands are answered in their order. */
static void test_pipeline(void **state)
{
    (void)state;
    run(1,
        SCRIPT(LOGIN, "> 1 SELECT work\r\n2 NOOP\r\n3 FETCH 1 UID\r\n4 UID SEARCH ALL\r\n5 LOGOUT",
               "<* 1 OK *", "<* 2 OK *", "< * 1 FETCH (UID 1)", "< 3 OK *", "< * SEARCH 1 3",
               "< 4 OK *", "< * BYE *", "< 5 OK *", "<!"));
}

#define LOGIN2                                                                                     \
    "2< * OK [CAPABILITY IMAP4rev1 *", "2> a LOGIN user secret", "2< a OK [CAPABILITY *] Signed in"

/* What one session changes, the other is told: in IDLE at once, and never an expunge within FETCH.
 */
static void test_two_sessions(void **state)
{
    (void)state;
    run(2, SCRIPT(LOGIN, "> 1 CREATE both", "< 1 OK *", "> 2 SELECT both", "<* 2 OK *", "> 3 IDLE",
                  "< + idling", LOGIN2, "2> 1 APPEND both {75+}", "2> " HELLO, "2< 1 OK *",
                  "< * 1 EXISTS", "< * 1 RECENT", "2> 2 APPEND both {75+}", "2> " HELLO,
                  "2< 2 OK *", "< * 2 EXISTS", "< * 2 RECENT", "2> 3 SELECT both", "2<* 3 OK *",
                  "2> 4 STORE 1 +FLAGS.SILENT (\\Deleted \\Flagged)", "2< 4 OK *",
                  "< * 1 FETCH (FLAGS (\\Flagged \\Deleted*", "> DONE", "< 3 OK *", "> 4 NOOP",
                  "< 4 OK *", "2> 5 EXPUNGE", "2< * 1 EXPUNGE", "2< 5 OK *", "> 5 FETCH 1:2 UID",
                  "< * 1 FETCH (UID 1)", "< * 2 FETCH (UID 2)", "< 5 OK *",
                  "> 6 FETCH 1 BODY.PEEK[TEXT]", "< * 1 FETCH (BODY[TEXT] {9}", "< body text)",
                  "< 6 OK *", "> 7 UID FETCH 2 FLAGS", "< * 2 FETCH (UID 2 FLAGS *",
                  "< * 1 EXPUNGE", "< 7 OK *", "> 8 IDLE", "< + idling", "> BREAK", "< 8 BAD *",
                  "2> 6 DELETE both", "2< 6 OK *", "> 9 NOOP", "< * BYE *", "<!"));
}

/* A message of several parts, one of them larger than what is held in memory. */
static void append_large(void *arg)
{
    struct err e = ERR_INIT;
    struct arena *a = arena_new(4096);
    struct account acc;
    struct stage *s = stage_new();
    struct str head = STR("Subject: large\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n");
    uint32_t validity, uid;

    (void)arg;
    if (account_find(STR("user"), &acc, a, &e) != 0)
        fail_msg("%s", e.text);
    stage_head(s, head);
    stage_add(s, STR("--b\r\n\r\nfirst\r\n--b\r\nContent-Type: text/plain\r\n\r\n"), &e);
    for (unsigned i = 0; i < 20000; i++) {
        char line[64];
        int n = snprintf(line, sizeof line, "line number %06u of a large text\r\n", i);
        stage_add(s, str_make(line, (size_t)n), &e);
    }
    stage_add(s, STR("needle in the hay\r\n--b--\r\n"), &e);
    if (mailbox_append(acc.id, STR("large"), s, head, 0, NULL, 0, date_now(), &validity, &uid,
                       &e) != 0)
        fail_msg("%s", e.text);
    stage_free(&s);
    arena_free(&a);
}

static void test_large(void **state)
{
    (void)state;
    run(1, SCRIPT(LOGIN, "> 1 CREATE large", "< 1 OK *"));
    task_run_main(append_large, NULL);
    run(1,
        SCRIPT(LOGIN, "> 1 SELECT large", "<* 1 OK *", "> 2 FETCH 1 BODYSTRUCTURE",
               "< * 1 FETCH (BODYSTRUCTURE ((\"text\" \"plain\" NIL NIL NIL \"7bit\" 5 1 NIL NIL "
               "NIL NIL)"
               "(\"text\" \"plain\" NIL NIL NIL \"7bit\" 720017 20001 NIL NIL NIL NIL) \"mixed\" *",
               "< 2 OK *", "> 3 FETCH 1 BODY[1]",
               "< * 1 FETCH (FLAGS (\\Seen \\Recent) BODY[1] {5}", "< first)", "< 3 OK *",
               "> 4 FETCH 1 BODY.PEEK[2]<719990.100>", "< * 1 FETCH (BODY[2]<719990> {27}",
               "< rge text", "< needle in the hay)", "< 4 OK *", "> 5 FETCH 1 BODY.PEEK[]",
               "< * 1 FETCH (BODY[] {7*", "<* line number 019999 *", "<* )", "< 5 OK *",
               "> 6 SEARCH BODY \"needle in\"", "< * SEARCH 1", "< 6 OK *",
               "> 7 SEARCH TEXT missing", "< * SEARCH", "< 7 OK *", "> 8 FETCH 1 BODY.PEEK[2.MIME]",
               "< * 1 FETCH (BODY[2.MIME] {28}", "< Content-Type: text/plain", "< ", "< )",
               "< 8 OK *"));
}

/* Clients that leave in the middle of something. */
static void test_leaving(void **state)
{
    (void)state;
    run(1, SCRIPT("< * OK *"));
    run(1, SCRIPT("< * OK *", "> 1 LOGIN user {6}"));
    run(1, SCRIPT(LOGIN, "> 1 SELECT work"));
    run(1, SCRIPT(LOGIN, "> 1 SELECT work", "<* 1 OK *", "> 2 IDLE", "< + idling"));
    run(1, SCRIPT(LOGIN, "> 1 APPEND work {1000}", "< + OK", "> begun"));
    run(1, SCRIPT(LOGIN, "> 1 SELECT large", "<* 1 OK *",
                  "> 2 FETCH 1 BODY[]\r\n3 SEARCH BODY x\r\n4 FETCH 1 BODY[]"));
    run(1, SCRIPT(LOGIN, "> 1 LOGIN user {99999999}", "< 1 BAD *", "> 2 LOGIN user {70000+}"));
    run(3, SCRIPT("1< * OK *", "2< * OK *", "3< * OK *"));
}

static void make_user(void *arg)
{
    struct err e = ERR_INIT;
    uint64_t id;

    (void)arg;
    if (account_add(STR("user"), STR("secret"), false, &id, &e) != 0)
        fail_msg("%s", e.text);
}

static int setup(void **state)
{
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    test_store_start();
    task_run_main(make_user, NULL);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    test_store_stop();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_not_signed_in), cmocka_unit_test(test_sign_in),
        cmocka_unit_test(test_wrong),         cmocka_unit_test(test_mailboxes),
        cmocka_unit_test(test_messages),      cmocka_unit_test(test_pipeline),
        cmocka_unit_test(test_two_sessions),  cmocka_unit_test(test_large),
        cmocka_unit_test(test_leaving),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
