create table if not exists email_letters (
    number      integer primary key,
    order_id    integer not null,
    customer_id text not null,
    nth         integer not null,
    reserved    boolean not null
);

create index if not exists email_letters_of_customer on email_letters (customer_id);
