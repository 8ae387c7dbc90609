-- The first schema.  Rules of this folder:
--   * migrations only go forward, are numbered, and run once, each in a transaction of its own;
--   * each table has a sentence of comment;
--   * a "-- grant:" line stands before each table, view and sequence and says what the roles
--     moonpost_engine and moonpost_script may do with it (store/migrate.c reads it on every run).
-- Tables of mailboxes lead with the account, and no foreign key crosses accounts, so that the
-- schema can be spread by account.

-- grant: engine usage
create sequence id_block;
comment on sequence id_block is
    'Blocks of 32,768 ids; each process takes one and counts on by itself.';

-- grant: engine select, update; script select
create table generation (
    name text primary key,
    n bigint not null default 1
);
comment on table generation is
    'Counts changes of cached tables; a process asks it before it gives a negative answer.';
insert into generation (name) values ('account'), ('setting');

create function generation_bump() returns trigger language plpgsql as $$
begin
    update generation set n = n + 1 where name = tg_argv[0];
    return null;
end $$;

-- grant: engine select
create table secret (
    name text primary key,
    bytes bytea not null
);
comment on table secret is
    'Random values made once for this installation, such as the key of made-up SCRAM salts.';

-- grant: engine select, insert, update; script select
create table setting (
    name text primary key,
    type text not null check (type in ('int', 'bool', 'text')),
    value text,
    fallback text not null,
    least bigint,
    most bigint,
    description text not null,
    changed_at timestamptz,
    changed_by text
);
comment on table setting is 'Typed settings; rows come from seed.sql, value is null until set.';
comment on column setting.fallback is 'The default: applies while value is null.';
create trigger setting_generation after insert or update of value, fallback or delete on setting
    for each statement execute function generation_bump('setting');

-- grant: engine select, insert, update, delete; script select
create table domain (
    name text primary key,
    created_at timestamptz not null default now()
);
comment on table domain is 'Local domains, in lower case: mail to them ends here.';
create trigger domain_generation after insert or update or delete on domain
    for each statement execute function generation_bump('account');

-- grant: engine select, insert, update, delete
create table account (
    id bigint primary key,
    name text not null unique,
    enabled boolean not null default true,
    admin boolean not null default false,
    expires date,
    access integer not null default 63,
    may_send_remote boolean not null default true,
    may_receive_remote boolean not null default true,
    max_out_bytes bigint not null default 0,
    inbox bigint not null,
    forward text not null default '',
    use_forward boolean not null default false,
    assistant text not null default '',
    redirect_assistant boolean not null default false,
    in_everyone boolean not null default true,
    comment text not null default '',
    created_at timestamptz not null default now()
);
comment on table account is 'Users: a mailbox and its settings, not necessarily a person.';
comment on column account.access is 'Bits: 1 POP3, 2 IMAP, 4 SMTP, 8 web, 16 password, 32 LDAP.';
comment on column account.expires is 'Last day on which the account may sign in.';
create trigger account_generation after insert or update or delete on account
    for each statement execute function generation_bump('account');

-- grant: script select
create view account_public as
    select id, name, enabled, admin, expires, comment, created_at from account;
comment on view account_public is 'What scripts may know of users.';

-- grant: engine select, insert, update, delete
create table account_uidvalidity (
    account bigint primary key,
    last bigint not null
);
comment on table account_uidvalidity is
    'The largest UIDVALIDITY an account has used; never goes back, so no pair is given twice.';

-- grant: engine select, insert, update, delete
create table credential (
    id bigint primary key,
    account bigint not null,
    kind text not null,
    scope text not null default 'main',
    data bytea not null,
    created_at timestamptz not null default now(),
    last_used timestamptz,
    unique (account, kind, scope)
);
comment on table credential is
    'Proofs of identity: SCRAM-SHA-256 verifiers of main and device passwords, sealed copies.';
create trigger credential_generation after insert or update of data, kind, scope or delete
    on credential for each statement execute function generation_bump('account');

-- grant: engine select, insert, update, delete; script select
create table mapping (
    id bigint generated always as identity primary key,
    pattern text not null,
    target text not null,
    kind text not null default 'Normal' check (kind in ('Normal', 'SMTP', 'POP3', 'FROM')),
    collector bigint,
    comment text not null default '',
    unique (pattern, target, kind)
);
comment on table mapping is
    'Explicit addresses: all that match apply and suppress the user of that name.';
comment on column mapping.collector is 'For POP3 and FROM: only mail of this collector; null: all.';
create trigger mapping_generation after insert or update or delete on mapping
    for each statement execute function generation_bump('account');

-- grant: engine select, insert, update, delete; script select
create table user_group (
    id bigint generated by default as identity (start with 100) primary key,
    name text not null unique,
    built_in text check (built_in in ('everyone', 'admins', 'nobody')),
    enabled boolean not null default true,
    comment text not null default ''
);
comment on table user_group is
    'Groups of users, reachable by mail from inside, or through a mapping; names in lower case.';
create trigger user_group_generation after insert or update or delete on user_group
    for each statement execute function generation_bump('account');

-- grant: engine select, insert, update, delete; script select
create table group_member (
    user_group bigint not null,
    account bigint not null,
    primary key (user_group, account)
);
comment on table group_member is 'Who is in a group that is not built in.';
create trigger group_member_generation after insert or update or delete on group_member
    for each statement execute function generation_bump('account');

-- grant: engine select, insert, delete
create table body (
    id bigint primary key,
    size bigint not null,
    parts integer not null default 0,
    refs integer not null,
    head_first bigint not null,
    heads integer not null,
    at timestamptz not null default now(),
    bytes bytea
) with (toast_tuple_target = 8160,
        toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0);
alter table body alter column bytes set storage external;
comment on table body is 'Message bodies as received, once each; never updated.';
comment on column body.refs is
    'Places that named the message when it was stored; later changes are rows of effect.';
comment on column body.parts is 'Rows of body_part that hold the bytes; 0: they are in bytes.';
comment on column body.head_first is 'Heads of a body have consecutive ids from here on.';

-- grant: engine select, insert, delete
create table body_part (
    body bigint not null,
    n integer not null,
    bytes bytea not null,
    primary key (body, n)
) with (toast.autovacuum_vacuum_scale_factor = 0.02, toast.autovacuum_vacuum_cost_delay = 0);
alter table body_part alter column bytes set storage external;
comment on table body_part is 'Bodies over 256 KB, in pieces of that size, written while they arrive.';

-- grant: engine select, insert, delete
create table stage (
    body bigint primary key,
    at timestamptz not null default now()
);
comment on table stage is 'Bodies on their way in, until a commit names them.';

-- grant: engine select, insert, update, delete
create table head (
    id bigint primary key,
    body bigint not null,
    size integer not null,
    body_size bigint not null,
    ours integer not null default 0,
    original bigint,
    at timestamptz not null default now(),
    sender text,
    bytes bytea not null,
    structure bytea
) with (toast_tuple_target = 8160);
alter table head alter column bytes set storage external;
comment on table head is 'Header sections: one row for each variant of a message.';
comment on column head.ours is 'Bytes on top that this server added.';
comment on column head.original is 'The head as received, where lines inside were changed.';
comment on column head.structure is 'Packed part tree, made at storing; offsets from the body start.';

-- grant: engine select, insert, update, delete
create table arrival (
    account bigint not null,
    mailbox bigint not null,
    id bigint not null,
    head bigint not null,
    size bigint not null,
    at timestamptz not null,
    flags integer not null default 0,
    keywords text,
    primary key (account, mailbox, id)
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
comment on table arrival is
    'Delivered messages that wait for their UID; no foreign key and no lock on the mailbox.';
comment on column arrival.keywords is 'Names, separated by spaces.';

-- grant: engine select, insert, update, delete
create table mailbox (
    id bigint primary key,
    account bigint not null,
    name text not null,
    special_use text not null default '',
    selectable boolean not null default true,
    uidvalidity bigint not null,
    uidnext bigint not null default 1,
    highestmodseq bigint not null default 1,
    expunge_modseq bigint not null default 0,
    recent_uid bigint not null default 0,
    messages integer not null default 0,
    unseen integer not null default 0,
    bytes bigint not null default 0,
    keywords text[] not null default '{}',
    unique (account, name)
) with (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.05);
comment on table mailbox is 'Folders with their counters; every change of a folder locks its row.';
comment on column mailbox.keywords is 'Names of flag bits 8 to 31, in order.';
comment on column mailbox.recent_uid is 'Messages up to this UID have been \Recent in some session.';

-- grant: engine select, insert, update, delete
create table subscription (
    account bigint not null,
    name text not null,
    primary key (account, name)
);
comment on table subscription is 'Folder names a user has subscribed to; the folder need not exist.';

-- grant: engine select, insert, update, delete
create table mailbox_page (
    account bigint not null,
    mailbox bigint not null,
    min_uid bigint not null,
    max_uid bigint not null,
    max_modseq bigint not null,
    n integer not null,
    uids bytea not null,
    flags bytea not null,
    mods bytea not null,
    refs bytea not null,
    primary key (account, mailbox, min_uid)
) with (fillfactor = 50, toast_tuple_target = 4064);
alter table mailbox_page alter column uids set storage main;
alter table mailbox_page alter column flags set storage main;
alter table mailbox_page alter column mods set storage main;
alter table mailbox_page alter column refs set storage external;
comment on table mailbox_page is
    'The index of a folder: up to 256 messages a row, packed big-endian by store/page.c.';
comment on column mailbox_page.uids is '2 bytes each: distance from min_uid.';
comment on column mailbox_page.flags is '4 bytes each.';
comment on column mailbox_page.mods is '8 bytes each: MODSEQ.';
comment on column mailbox_page.refs is '16 bytes each: head 8, size 4, seconds since 1970 4.';

create function be_int(b bytea, at integer, width integer) returns bigint
    language sql immutable parallel safe as $$
    select case width
        when 2 then (get_byte(b, at)::bigint << 8)
             | (get_byte(b, at + 1)::bigint << 0)
        when 4 then (get_byte(b, at)::bigint << 24)
             | (get_byte(b, at + 1)::bigint << 16)
             | (get_byte(b, at + 2)::bigint << 8)
             | (get_byte(b, at + 3)::bigint << 0)
        else (get_byte(b, at)::bigint << 56)
             | (get_byte(b, at + 1)::bigint << 48)
             | (get_byte(b, at + 2)::bigint << 40)
             | (get_byte(b, at + 3)::bigint << 32)
             | (get_byte(b, at + 4)::bigint << 24)
             | (get_byte(b, at + 5)::bigint << 16)
             | (get_byte(b, at + 6)::bigint << 8)
             | (get_byte(b, at + 7)::bigint << 0)
        end $$;

-- grant: engine select; script select
create view mailbox_entry as
    select p.account, p.mailbox, p.min_uid + be_int(p.uids, i * 2, 2) as uid,
           be_int(p.flags, i * 4, 4) as flags, be_int(p.mods, i * 8, 8) as modseq,
           be_int(p.refs, i * 16, 8) as head, be_int(p.refs, i * 16 + 8, 4) as size,
           to_timestamp(be_int(p.refs, i * 16 + 12, 4)) as at
      from mailbox_page p, generate_series(0, p.n - 1) i
    union all
    select account, mailbox, null, flags::bigint, null, head, size, at from arrival;
comment on view mailbox_entry is
    'One row a message, unpacked for reports; messages without UID have just arrived.';

-- grant: engine select, insert, update, delete
create table deleted_message (
    account bigint not null,
    mailbox bigint not null,
    uid bigint not null,
    head bigint not null,
    size bigint not null,
    at timestamptz not null,
    flags integer not null,
    keywords text,
    deleted_at timestamptz not null default now(),
    who text not null default '',
    why text not null default '',
    primary key (account, mailbox, uid)
);
create index on deleted_message (deleted_at);
comment on table deleted_message is 'The recycle bin: expunged messages that can be brought back.';

-- grant: engine select, insert, update, delete; script select
create table quarantine (
    account bigint not null,
    id bigint not null,
    head bigint not null,
    size bigint not null,
    folder text not null default 'INBOX',
    flags integer not null default 0,
    score double precision,
    at timestamptz not null default now(),
    seen boolean not null default false,
    hidden boolean not null default false,
    primary key (account, id)
);
comment on table quarantine is 'Suspicious messages, a row a recipient, in place of the arrival.';

-- grant: engine select, insert, update, delete
create table held_message (
    id bigint primary key,
    account bigint not null,
    head bigint not null,
    size bigint not null,
    at timestamptz not null default now(),
    why text not null
);
comment on table held_message is
    'Messages nobody owns, such as arrivals of a user who was deleted meanwhile.';

-- grant: engine select, insert, delete
create table effect (
    id bigint generated always as identity,
    kind smallint not null,
    key bigint not null,
    name text,
    delta bigint not null
) with (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000);
comment on table effect is
    'Changes of counters, written without a lock and folded in by a job; kind 1: body references.';

-- grant: engine select, insert, update, delete
create table body_delta (
    body bigint primary key,
    delta bigint not null
);
comment on table body_delta is 'Folded effects: what was added to body.refs since it was stored.';

-- grant: engine select, insert, update, delete
create table body_free (
    body bigint primary key,
    since timestamptz not null default now()
);
comment on table body_free is 'Bodies that nothing names any more; removed after a day.';

-- grant: engine select, insert, update, delete
create table commit_mark (
    id bigint primary key,
    at timestamptz not null default now()
);
comment on table commit_mark is
    'A small commit that proves that all before it is flushed and on the standby.';

-- grant: engine select, insert, update, delete; script select
create table destination (
    id bigint generated always as identity primary key,
    key text not null unique,
    domain text not null,
    route text not null default '',
    next_attempt timestamptz not null default now(),
    active integer not null default 0,
    maxactive integer not null default 5,
    failures integer not null default 0,
    last_error text
) with (fillfactor = 50);
create index destination_due on destination (next_attempt) where active < maxactive;
comment on table destination is
    'Where outgoing mail goes: a domain or a fixed host; workers claim these, not messages.';
comment on column destination.key is 'The domain in lower case, or the route behind "smtp:".';

-- grant: engine select, insert, delete
create table destination_wake (
    destination bigint not null
);
comment on table destination_wake is
    'New rows wait for these destinations; the queue runner folds it into next_attempt.';

-- grant: engine select, insert, update, delete
create table queue (
    id bigint primary key,
    destination bigint not null,
    head bigint not null,
    sender text not null,
    recipient text not null,
    env_id text,
    ret text,
    notify text,
    orcpt text,
    auth_user text,
    trace text,
    size bigint not null,
    priority integer not null default 50,
    state text not null default 'wait' check (state in ('wait', 'active', 'hold', 'sent', 'failed')),
    attempts integer not null default 0,
    next_attempt timestamptz not null default now(),
    lease_until timestamptz,
    at timestamptz not null default now(),
    warned_at timestamptz,
    done_at timestamptz,
    last_result text
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);
create index queue_due on queue (destination, next_attempt) where state = 'wait';
create index queue_lease on queue (lease_until) where state = 'active';
comment on table queue is 'Outgoing mail: one row a recipient.';

-- grant: script select
create view queue_public as
    select id, sender, recipient, auth_user, trace, size, priority, state, attempts, next_attempt,
           at, last_result from queue;
comment on view queue_public is 'What scripts may know of outgoing mail.';

-- grant: engine select, insert; script select
create table ledger (
    id bigint not null,
    trace text not null,
    at timestamptz not null default now(),
    kind text not null,
    peer text,
    auth_user text,
    sender text,
    subject text,
    size bigint,
    inputs jsonb,
    steps jsonb,
    answers jsonb
) partition by range (at);
create index on ledger (trace);
create table ledger_default partition of ledger default;
comment on table ledger is
    'The decision ledger: what a session said and what was decided, a row a message or session.';
comment on table ledger_default is 'Catches rows of a day whose partition is missing.';

-- Makes the partition of a day; rows that meanwhile went to the default one move along.  Runs with
-- the owner's rights, because only an owner may attach.
create function ledger_day(day date) returns boolean
    language plpgsql security definer set search_path from current as $$
declare
    part text := 'ledger_' || to_char(day, 'YYYYMMDD');
begin
    if to_regclass(part) is not null then
        return false;
    end if;
    execute format('create table %I (like ledger including all)', part);
    execute format('with old as (delete from ledger_default where at >= %L and at < %L returning *)'
                   ' insert into %I select * from old', day::timestamptz,
                   (day + 1)::timestamptz, part);
    execute format('alter table ledger attach partition %I for values from (%L) to (%L)', part,
                   day::timestamptz, (day + 1)::timestamptz);
    return true;
end $$;

-- Drops the partitions of days before this one; says how many.
create function ledger_drop(before date) returns integer
    language plpgsql security definer set search_path from current as $$
declare
    part text;
    n integer := 0;
begin
    for part in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
         where i.inhparent = 'ledger'::regclass and c.relname ~ '^ledger_[0-9]{8}$'
           and c.relname < 'ledger_' || to_char(before, 'YYYYMMDD')
    loop
        execute format('drop table %I', part);
        n := n + 1;
    end loop;
    delete from ledger_default where at < before;
    return n;
end $$;

-- grant: engine select, insert, update, delete; script select
create table lease (
    name text primary key,
    holder text not null,
    epoch bigint not null default 1,
    until timestamptz not null
);
comment on table lease is 'Who does what must be done once: scheduler, maintenance.';

-- grant: engine select, insert, update, delete
create table pop3_lease (
    account bigint primary key,
    token bigint not null,
    until timestamptz not null
);
comment on table pop3_lease is 'The one POP3 session of a maildrop.';
