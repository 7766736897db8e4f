create table analytics_days (
    day    date primary key,
    orders integer not null,
    units  integer not null,
    cents  integer not null
);

create table analytics_customers (
    customer_id text primary key,
    orders      integer not null,
    units       integer not null,
    cents       integer not null
);
