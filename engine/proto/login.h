/* Signing in, for every protocol: turns the submitted name into an account name (UserManager.lua,
 * `user@local.domain`), then asks the account store. */
#pragma once

#include "core/arena.h"
#include "core/err.h"
#include "store/account.h"

/* The account name for what the client sent.  `service`: an ACCESS_ bit.  In a task. */
int login_translate(struct str submitted, uint32_t service, struct arena *a, struct str *name_r,
                    struct err *e);
/* account_login() on the translated name. */
int login_password(struct str submitted, struct str password, uint32_t service, const char *peer,
                   struct account *r, struct arena *a, struct err *e);

/* May the account sign in from there (access rules of POP3 and IMAP; SMTP asks for its service
 * itself)?  DENIED. */
int login_permitted(uint32_t service, const char *peer, struct str name, struct err *e);

/* May passwords go over this connection?  With TLS always; without, from loopback or where the
 * setting security.plaintext_auth allows it. */
bool login_plain_allowed(bool secure, const char *peer);
