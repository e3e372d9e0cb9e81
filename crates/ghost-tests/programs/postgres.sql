-- Many transactions, an index, a sequence, a temporary table and an open cursor.
create table account (id serial primary key, owner text, balance bigint);
insert into account (owner, balance) select 'owner ' || i % 503, i * 31337 % 1000 from generate_series(1, 20000) i;
create index by_owner on account (owner);
do $$ begin
    for i in 1 .. 300 loop
        update account set balance = balance + i where owner = 'owner ' || i * 7 % 503;
        commit;
    end loop;
end $$;
select count(*), sum(balance), count(distinct owner) from account;
begin;
create temporary table seen (id int) on commit drop;
declare c cursor for select id from account order by balance, id;
move forward 5000 in c;
insert into seen select id from account where id % 3 = 0;
update account set balance = balance * 2 from seen where seen.id = account.id;
fetch 5 from c;
delete from account where id % 7 = 0;
commit;
insert into account (owner, balance) values ('the last', 1) returning id;
select owner, count(*), sum(balance) from account group by owner order by 3 desc, 1 limit 10;
select sum(balance * id) from account;
vacuum analyze account;
select md5(string_agg(id || owner || balance, ',' order by id)) from account;
