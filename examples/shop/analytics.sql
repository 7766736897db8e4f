create table analytics_days (
    day    text primary key,
    orders integer not null,
    units  integer not null,
    cents  integer not null
) without rowid;

create table analytics_customers (
    customer_id text primary key,
    orders      integer not null,
    units       integer not null,
    cents       integer not null
) without rowid;
