-- The write side, normalized: what has been booked, each fact once. Sums of it are views.

create table if not exists ledger_accounts (
    account     text primary key,
    limit_cents bigint                        -- how much it may owe; null: an account of the house, without a limit
);

create table if not exists ledger_entries (
    entry text primary key,                   -- so none is booked twice, whoever sends it
    day   date not null,
    what  text not null check (what in ('order', 'payment', 'transfer'))
);

create table if not exists ledger_postings (
    entry   text not null references ledger_entries (entry),
    account text not null references ledger_accounts (account),
    debit   bigint not null check (debit >= 0),
    credit  bigint not null check (credit >= 0),
    check (debit = 0 or credit = 0),
    primary key (entry, account)
);
