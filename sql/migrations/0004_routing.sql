-- Routing options of users (spec 1 section 9), and the shipped files of a release.

alter table account
    add column assistant_hours text not null default '',
    add column forward_hours text not null default '',
    add column big_redirect text not null default '',
    add column small_redirect text not null default '',
    add column skip_if_quarantined boolean not null default false;
comment on column account.assistant_hours is
    'When assistants are used: from-to, each blank, YYYYMMDD, HH:MM or both; empty: always.';
comment on column account.forward_hours is 'When forwards are used; same form.';
comment on column account.big_redirect is
    'Messages of at least so many kB: "KB copy|redirect ADDRESS;ADDRESS"; empty: off.';
comment on column account.small_redirect is 'Messages of at most so many kB; same form.';
comment on column account.skip_if_quarantined is
    'No forwards and assistants for mail that would be quarantined.';

-- grant: engine select, insert, delete; script select
create table release_shipped (
    release bigint not null references release on delete cascade,
    name text not null,
    hash bytea not null,
    primary key (release, name)
);
comment on table release_shipped is
    'The shipped files a release ran with, by SHA-256: lua/NAME and stdlib/NAME.';
