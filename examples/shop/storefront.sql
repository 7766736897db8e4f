create table if not exists storefront_orders (
    number      integer primary key,
    order_id    integer not null,
    customer_id text not null,
    day         date not null,
    units       integer not null,
    cents       integer not null
);
