-- The journal in SQLite, version 2. docs/reference/format.md explains every column.
-- Positions need AUTOINCREMENT: a bare rowid would be given out again after the last row is deleted.

create table spine_meta (
  name text primary key,                  -- id, incarnation, schema_version, writer_min, control
  value text not null
) without rowid;

create table spine_events (
  position integer primary key autoincrement,
  id blob not null,                       -- 16 bytes, UUIDv7
  channel text,                           -- null: private to its source
  slot integer not null,                  -- crc32(key) % 960, of the id where there is no key
  key text,
  type text not null,
  version integer not null,
  time_us integer not null,
  recorded_us integer not null,
  source text not null,
  correlation text,                       -- null: the event began its correlation
  causation text,
  hops integer not null,
  meta blob,
  data blob not null
);
create unique index spine_events_id on spine_events (id);
create index spine_events_correlation on spine_events (correlation) where correlation is not null;

create table spine_streams (
  number integer primary key,
  service text not null,
  name text not null,
  version integer not null,
  unique (service, name)
);
create table spine_stream_events (
  stream integer not null,
  version integer not null,
  position integer not null,
  primary key (stream, version)
) without rowid;

create table spine_services (
  service text not null,
  generation integer not null,            -- given when a declaration is first seen; the newest live one leads
  declaration text not null,              -- JSON, canonical: names, channels, types with versions
  first_seen_us integer not null,
  primary key (service, generation)
) without rowid;

create table spine_subscriptions (
  number integer primary key autoincrement,
  uid blob not null unique,               -- event ids and idempotency keys derive from it, through renames
  service text not null,
  name text not null,
  state text not null,                    -- active, paused, suspended, retired
  generation integer not null,            -- of the cursor; raised by rewind, pause, rename, retire, a wider filter (R13)
  channels text not null,                 -- JSON array
  types text not null,                    -- JSON array of [type, newest version known or null]
  ordering text not null,                 -- key, none, feed
  on_dead text not null,                  -- goes_on, waits
  republish text not null default '',
  created_us integer not null
);
create unique index spine_subscriptions_name on spine_subscriptions (service, name) where state <> 'retired';

create table spine_cursors (
  subscription integer not null,
  feed text not null,                     -- '': this journal's own feed
  partition integer not null,             -- slot % 16; -1: the whole feed as one
  position integer not null,
  beyond blob,                            -- ranges finished beyond the position; see cursors.py
  primary key (subscription, feed, partition)
) without rowid;

create table spine_deliveries (
  number integer primary key autoincrement,
  subscription integer not null,
  feed text not null,
  partition integer not null,
  position integer not null,
  slot integer not null,
  key text,
  state text not null,                    -- parked, dead, held, settled
  attempts integer not null,
  deaths integer not null default 0,
  due_us integer,
  reason text not null,
  error text not null,
  traceback text not null,
  late integer not null default 0,
  first_us integer not null,
  last_us integer not null,
  event_id blob not null,
  record blob not null,                   -- the whole record, msgpack
  unique (subscription, feed, partition, position)
);
create index spine_deliveries_open on spine_deliveries (subscription, state) where state <> 'settled';
create index spine_deliveries_event on spine_deliveries (event_id);

create table spine_starts (
  subscription integer not null,
  feed text not null,
  partition integer not null,
  position integer not null,
  times integer not null,
  alone integer not null,
  primary key (subscription, feed, partition, position)
) without rowid;

create table spine_marks (                -- numbers seen of other origins (ports: one number beyond our own feed)
  subscription integer not null,
  origin text not null,
  channel text not null,
  slot integer not null,
  upto integer not null,
  beyond blob,
  primary key (subscription, origin, channel, slot)
) without rowid;

create table spine_timers (
  id blob primary key,
  due_us integer not null,
  record blob not null
) without rowid;
create index spine_timers_due on spine_timers (due_us);

create table spine_leases (
  name text primary key,
  epoch integer not null,
  owner text not null,
  until_us integer not null,
  unclean integer not null default 0
) without rowid;

create table spine_processes (
  id text primary key,
  service text not null,
  generation integer not null,
  pid integer not null,
  host text not null,
  started_us integer not null,
  window integer not null,
  release text not null,
  until_us integer not null,
  pid_started text not null
) without rowid;

create table spine_tables (               -- which version of a service's own schema has run
  service text not null,
  version text not null,
  ran_us integer not null,
  primary key (service, version)
) without rowid;

create table spine_notes (                -- small named values of a service; since version 2
  service text not null,
  kind text not null,
  key text not null,
  version integer not null,
  value blob not null,
  until_us integer,                       -- null: until it is removed; else it may be removed from then on
  primary key (service, kind, key)
);
create index spine_notes_until on spine_notes (until_us) where until_us is not null;
