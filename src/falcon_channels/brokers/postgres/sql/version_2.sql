-- Changes the tables of version 1 to those of version 2.

COMMENT ON SCHEMA {schema} IS 'falcon-channels 2';

-- "ended" is the error with which the channel has ended, empty for success. "version" and
-- "version_epoch" are those of the newest publication that had a version.
ALTER TABLE {schema}.channels
    ADD ended bytea, ADD version bigint, ADD version_epoch bytea;

-- Settings of the broker: the name of the notifications, and whether a fail-over loses
-- nothing. The name is random, because PostgreSQL lets every user listen to every name.
CREATE TABLE {schema}.settings (
    notify text NOT NULL,
    trusted boolean NOT NULL DEFAULT false
);
INSERT INTO {schema}.settings (notify)
VALUES ('falcon:' || replace(gen_random_uuid()::text, '-', ''));

-- The routes of the processes, for publishes from SQL.
CREATE TABLE {schema}.routes (
    template text PRIMARY KEY,
    prefix text NOT NULL,
    pattern text NOT NULL,
    rank text COLLATE "C" NOT NULL,
    size bigint NOT NULL,
    ttl_ms bigint NOT NULL,
    meta_ms bigint NOT NULL,
    key_ms bigint NOT NULL,
    max_bytes bigint NOT NULL,
    changed_ms bigint NOT NULL
);

-- Functions of version 1.
DROP FUNCTION IF EXISTS {schema}.publish(
    text, integer, text, bytea, bigint, bigint, bigint, bigint, bytea[], bytea[]
);
DROP FUNCTION IF EXISTS {schema}.send(text, text, bytea, bytea);
DROP FUNCTION IF EXISTS {schema}.notify(text, text, bytea);
