/* A byte stream: one TCP connection, plain or TLS, with one callback.
 *
 * The owner gets STREAM_DATA while bytes stand in stream_in(); it consumes what it understands.
 * Data is not announced while paused (stream_pause), which is how a session holds further commands
 * back while a task works for the one at hand.  Writes are buffered without limit of time but with
 * a cap; past the high-water mark stream_write() in a task parks until the peer has read.
 *
 * After STREAM_CLOSED the stream is dead: the owner calls stream_free.  Nothing is called back
 * after stream_free.  Freeing inside the callback is allowed. */
#pragma once

#include "core/buf.h"
#include "core/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

enum stream_event {
    STREAM_TLS,     /* handshake finished */
    STREAM_DATA,    /* new bytes in stream_in() */
    STREAM_DRAINED, /* everything written has left for the kernel */
    STREAM_TIMEOUT, /* nothing was read for the time of stream_timeout() */
    STREAM_CLOSED   /* peer gone, or an error: stream_error() */
};

struct stream;
struct tls_ctx;
typedef void stream_fn(void *ctx, struct stream *s, enum stream_event ev);

/* Takes over an accepted, non-blocking descriptor. */
struct stream *stream_new(int fd, const struct sockaddr_storage *peer, size_t in_cap, stream_fn *fn,
                          void *ctx);
void stream_free(struct stream **s);

struct buf *stream_in(struct stream *s);
/* Raises or lowers the cap of the input buffer (IMAP literals, SMTP data). */
void stream_in_cap(struct stream *s, size_t cap);
/* Even a paused stream goes on reading into its buffer, which may move it.  A task that works on
 * bytes in place and may park meanwhile freezes the buffer first. */
void stream_freeze(struct stream *s, bool on);
void stream_pause(struct stream *s);
/* STREAM_DATA follows in the next turn when bytes are waiting. */
void stream_resume(struct stream *s);

/* Queues bytes; flushed at the end of the turn, so that several writes leave in one packet.  In a
 * task it parks while more than 256 KB wait; -1 once the stream is closed (then nothing more need
 * be done: STREAM_CLOSED has been or will be delivered). */
int stream_write(struct stream *s, struct str bytes);
int stream_printf(struct stream *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
size_t stream_unsent(const struct stream *s);
/* Closes after everything written has left (at most 10 s), then STREAM_CLOSED. */
void stream_finish(struct stream *s);
bool stream_closed(const struct stream *s);
const char *stream_error(const struct stream *s);

/* Seconds without input until STREAM_TIMEOUT; 0: never.  Restarts with each read. */
void stream_timeout(struct stream *s, unsigned seconds);

/* Starts TLS as server: drops buffered plain input (RFC 3207 4.2, CVE-2011-0411 class). */
int stream_start_tls(struct stream *s, struct tls_ctx *ctx, struct err *e);
bool stream_is_tls(const struct stream *s);
/* "TLSv1.3 TLS_AES_256_GCM_SHA384", or "". */
const char *stream_tls_text(const struct stream *s);

const struct sockaddr_storage *stream_peer(const struct stream *s);
const struct sockaddr_storage *stream_local(const struct stream *s);
/* Printable peer address without port; lives as long as the stream. */
const char *stream_peer_text(const struct stream *s);
unsigned stream_local_port(const struct stream *s);
