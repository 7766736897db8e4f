create table if not exists books (id integer primary key, key text not null, number integer not null, pid integer not null);
