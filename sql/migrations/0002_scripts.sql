-- Releases of the site's scripts and rule files (script/release.c).

-- grant: engine select, insert, update; script select
create table release (
    id bigint primary key,
    parent bigint,
    at timestamptz not null default now(),
    who text not null default '',
    note text not null default '',
    active boolean not null
);
comment on table release is
    'Immutable manifests of the site''s scripts and rule files; one is active.';
comment on column release.parent is 'The release whose files this one began with; null: none.';
create unique index release_active on release (active) where active;

-- grant: engine select, insert, delete
create table script_blob (
    hash bytea primary key,
    text bytea not null,
    at timestamptz not null default now()
);
comment on table script_blob is 'Texts of scripts and rule files by their SHA-256, each stored once.';

-- grant: engine select, insert, delete; script select
create table release_file (
    release bigint not null references release on delete cascade,
    name text not null,
    hash bytea not null references script_blob,
    primary key (release, name)
);
comment on table release_file is 'What a release consists of: names in lower case without .lua.';
