-- One long transaction in WAL mode: locks, the shared index, a journal that is not yet part of the database.
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;
CREATE TABLE account (id INTEGER PRIMARY KEY, owner TEXT, balance INTEGER);
CREATE INDEX by_owner ON account (owner);
BEGIN IMMEDIATE;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 150000)
  INSERT INTO account SELECT i, printf('owner %d', (i * 7919) % 5003), (i * 31337) % 1000 FROM n;
SELECT count(*), sum(balance) FROM account;
UPDATE account SET balance = balance + 1 WHERE id % 3 = 0;
UPDATE account SET owner = owner || '!' WHERE id % 5 = 0;
SELECT count(*), sum(balance), count(DISTINCT owner) FROM account;
DELETE FROM account WHERE id % 7 = 0;
COMMIT;
SELECT owner, count(*), sum(balance) FROM account GROUP BY owner ORDER BY 2 DESC, 1 LIMIT 20;
SELECT sum(balance * id) FROM account;
PRAGMA integrity_check;
