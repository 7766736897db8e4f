create table inventory_answers (
    number      integer primary key,
    order_id    integer not null,
    customer_id text not null,
    day         date not null,
    units       integer not null,
    reserved    boolean not null
);

create index inventory_answers_of_customer on inventory_answers (customer_id, day);
