/* What all line protocols share: the service a session belongs to and its life cycle.
 *
 * A session is made by the listener's accept callback, lives on the loop, and spawns a task for
 * each command that has to wait.  `running` is that task; while it runs the stream is paused, so
 * commands are handled one after the other.  When the client leaves meanwhile, the task is
 * cancelled and the session is freed when it has ended. */
#pragma once

#include "core/task.h"
#include "net/stream.h"

struct tls_ctx;

enum service_kind { SERVICE_SMTP, SERVICE_SUBMISSION, SERVICE_POP3, SERVICE_IMAP };
enum service_tls { SERVICE_STARTTLS, SERVICE_STARTTLS_REQUIRED, SERVICE_TLS };

struct service {
    enum service_kind kind;
    enum service_tls tls_mode;
    unsigned id;         /* index in the shared segment's session counts; ServerID of hooks */
    const char *name;    /* "smtp", "submission", "smtps", "pop3", "imap" ... */
    struct tls_ctx *tls; /* NULL: no certificate, TLS not offered */
};

/* Each protocol has one of these; `fd` is non-blocking and owned by the callee from here on. */
void smtp_accept(const struct service *svc, int fd, const struct sockaddr_storage *peer);
void pop3_accept(const struct service *svc, int fd, const struct sockaddr_storage *peer);
void imap_accept(const struct service *svc, int fd, const struct sockaddr_storage *peer);

/* Graceful stop: sessions finish the message or command in hand and say goodbye (421, BYE). */
void smtp_stop_all(void);
void pop3_stop_all(void);
void imap_stop_all(void);
unsigned smtp_session_count(void);
unsigned pop3_session_count(void);
unsigned imap_session_count(void);
