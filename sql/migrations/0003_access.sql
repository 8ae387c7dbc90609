-- Who may reach which service from where (store/access.c).

-- grant: engine select, insert, update, delete
create table access_rule (
    id bigint generated always as identity primary key,
    service text not null,
    type text not null check (type in ('any', 'any4', 'any6', 'local', 'network')),
    network text not null default '',
    allow boolean not null,
    allow_unauth boolean not null default false,
    users text not null default '',
    comment text not null default ''
);
comment on table access_rule is 'IP access restrictions of services: most specific row first, first match decides; without rows everybody may connect';
comment on column access_rule.service is 'Name of the service (smtp, submission, pop3, imap ...) or * for all that have no rows of their own';
comment on column access_rule.network is 'Address with optional prefix length, for type network';
comment on column access_rule.allow_unauth is 'May submit and relay without signing in (SMTP)';
comment on column access_rule.users is 'Accounts that may sign in from there, separated by commas; empty: all';
