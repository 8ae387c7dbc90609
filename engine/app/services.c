#include "app/services.h"

#include "core/config.h"
#include "core/limits.h"
#include "core/log.h"
#include "core/proc.h"
#include "net/listener.h"
#include "net/tls.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef void accept_session(const struct service *svc, int fd, const struct sockaddr_storage *peer);

static struct kind {
    struct service svc;
    unsigned port;
    accept_session *accept;
    const char *full; /* said when no descriptor is left; implicit TLS has no words before TLS */
} kinds[SERVICE_COUNT] = {
    {{SERVICE_SMTP, SERVICE_STARTTLS, 0, "smtp", NULL},
     25,
     smtp_accept,
     "421 4.3.2 too many connections\r\n"},
    {{SERVICE_SUBMISSION, SERVICE_TLS, 1, "submission", NULL}, 465, smtp_accept, ""},
    {{SERVICE_SUBMISSION, SERVICE_STARTTLS_REQUIRED, 2, "submission", NULL},
     587,
     smtp_accept,
     "421 4.3.2 too many connections\r\n"},
    {{SERVICE_POP3, SERVICE_STARTTLS, 3, "pop3", NULL},
     110,
     pop3_accept,
     "-ERR [SYS/TEMP] too many connections\r\n"},
    {{SERVICE_POP3, SERVICE_TLS, 4, "pop3", NULL}, 995, pop3_accept, ""},
    {{SERVICE_IMAP, SERVICE_STARTTLS, 5, "imap", NULL},
     143,
     imap_accept,
     "* BYE [UNAVAILABLE] too many connections\r\n"},
    {{SERVICE_IMAP, SERVICE_TLS, 6, "imap", NULL}, 993, imap_accept, ""},
};

struct binding bindings[BINDINGS_MAX];
unsigned binding_count;

static struct listener *listeners[BINDINGS_MAX];
static struct tls_ctx *tls;

const char *service_name(unsigned service)
{
    return kinds[service].svc.name;
}

unsigned service_port(unsigned service)
{
    return config.port_base + kinds[service].port;
}

static int open_binding(unsigned service, const char *addr, unsigned workers, bool optional,
                        struct err *e)
{
    unsigned port = service_port(service);
    bool in_use;

    if (port > 65535)
        return err_set(e, ERR_SYNTAX, "--port-base %u is too high for port %u", config.port_base,
                       kinds[service].port);
    if (binding_count == BINDINGS_MAX)
        return err_set(e, ERR_LIMIT, "too many --listen addresses");
    struct binding *b = &bindings[binding_count];
    *b = (struct binding){.service = service, .port = port};
    snprintf(b->addr, sizeof b->addr, "%s", addr);
    if (listener_probe(addr, port, &in_use, e) != 0) {
        if (optional && !in_use)
            return 0; /* a machine without IPv6 */
        if (e->cls == ERR_DENIED && port < 1024)
            return err_set(e, ERR_DENIED,
                           "port %u needs root (who then becomes the user '%s'), or give "
                           "--port-base 20000",
                           port, config.user);
        return -1;
    }
    for (unsigned w = 0; w < WORKERS_MAX; w++) {
        b->fd[w] = -1;
        if (w < workers && (b->fd[w] = listener_open(addr, port, &in_use, e)) < 0)
            return -1;
    }
    binding_count++;
    return 0;
}

int services_open(unsigned workers, struct err *e)
{
    for (unsigned s = 0; s < SERVICE_COUNT; s++) {
        if (config.listen_count == 0) {
            if (open_binding(s, "0.0.0.0", workers, false, e) != 0 ||
                open_binding(s, "::", workers, true, e) != 0)
                return -1;
        }
        for (unsigned i = 0; i < config.listen_count; i++)
            if (open_binding(s, config.listen[i], workers, false, e) != 0)
                return -1;
    }
    return 0;
}

static void on_accept(void *ctx, int fd, const struct sockaddr_storage *peer)
{
    const struct kind *k = ctx;

    if (proc_files_full()) {
        ssize_t n = write(fd, k->full, strlen(k->full));
        (void)n; /* the client is sent away either way */
        close(fd);
        return;
    }
    k->accept(&k->svc, fd, peer);
}

static int tls_files(char *cert, char *key, unsigned size, struct err *e)
{
    if (!config_path("tls/certificate.pem", cert, size) || !config_path("tls/key.pem", key, size))
        return err_set(e, ERR_SYNTAX, "data folder's path is too long");
    return 0;
}

int services_certificate(struct err *e)
{
    char cert[600], key[600], host[256];
    bool made;

    if (tls_files(cert, key, sizeof cert, e) != 0)
        return -1;
    if (gethostname(host, sizeof host) != 0)
        snprintf(host, sizeof host, "localhost");
    if (tls_self_signed(cert, key, host, &made, e) != 0)
        return -1;
    if (made)
        log_warn("app", "made a self-signed certificate for %s; put a real one in %s", host, cert);
    return 0;
}

static int load_tls(struct err *e)
{
    char cert[600], key[600];

    if (tls_files(cert, key, sizeof cert, e) != 0)
        return -1;
    tls = tls_ctx_new(cert, key, e);
    return tls ? 0 : -1;
}

int services_start(unsigned worker, struct err *e)
{
    if (tls == NULL && load_tls(e) != 0) {
        log_error("app", "TLS is not offered: %s", e->text);
        *e = (struct err)ERR_INIT;
    }
    for (unsigned s = 0; s < SERVICE_COUNT; s++)
        kinds[s].svc.tls = tls;
    for (unsigned i = 0; i < binding_count; i++) {
        struct kind *k = &kinds[bindings[i].service];
        if (k->svc.tls_mode == SERVICE_TLS && tls == NULL)
            continue;
        listeners[i] = listener_start(bindings[i].fd[worker], on_accept, k);
    }
    return 0;
}

void services_stop(void)
{
    for (unsigned i = 0; i < binding_count; i++)
        listener_stop(&listeners[i]);
}

void services_drain(void)
{
    smtp_stop_all();
    pop3_stop_all();
    imap_stop_all();
}

unsigned services_sessions(void)
{
    return smtp_session_count() + pop3_session_count() + imap_session_count();
}

void services_reload_tls(void)
{
    struct err e = ERR_INIT;

    if (tls != NULL && tls_ctx_reload(tls, &e) != 0)
        log_error("app", "certificate not reloaded, the old one stays: %s", e.text);
}
