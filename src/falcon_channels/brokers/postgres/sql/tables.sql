-- The tables. {schema} is replaced by the name of the schema, {version} by its version.
--
-- All times are Unix times in milliseconds. A column `until_ms` says when a row expires.

CREATE SCHEMA {schema};
COMMENT ON SCHEMA {schema} IS 'falcon-channels {version}';

-- The logs. "top" is the offset of the newest publication. The publications in the log
-- have offsets above "low". "run" identifies the server that has written the log. After
-- "forget_ms" the log may be removed. "ended" is the error with which the channel has
-- ended, empty for success. "version" and "version_epoch" are those of the newest
-- publication that had a version.
--
-- Each publish locks and updates the row of its channel. Half of each page is left free,
-- so that the new version of a row stays in its page and changes no index.
CREATE TABLE {schema}.channels (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name bytea NOT NULL UNIQUE,
    epoch text NOT NULL,
    top bigint NOT NULL,
    low bigint NOT NULL,
    run text NOT NULL,
    forget_ms bigint,
    ended bytea,
    version bigint,
    version_epoch bytea
) WITH (fillfactor = 50);

-- The publications of all logs.
CREATE TABLE {schema}.items (
    channel bigint NOT NULL,
    "offset" bigint NOT NULL,
    stored_ms bigint NOT NULL,
    until_ms bigint,
    body bytea NOT NULL,
    PRIMARY KEY (channel, "offset")
);
CREATE INDEX items_until ON {schema}.items (until_ms) WHERE until_ms IS NOT NULL;

-- Idempotency keys, and the position of the publication of each.
CREATE TABLE {schema}.keys (
    channel bytea NOT NULL,
    key bytea NOT NULL,
    "offset" bigint NOT NULL,
    epoch text NOT NULL,
    until_ms bigint NOT NULL,
    PRIMARY KEY (channel, key)
);
CREATE INDEX keys_until ON {schema}.keys (until_ms);

-- Control messages. Also signals, and publications without a log, that are too long for a
-- notification.
CREATE TABLE {schema}.messages (
    id bigint PRIMARY KEY,
    control boolean NOT NULL,
    body bytea NOT NULL,
    until_ms bigint NOT NULL
);
CREATE INDEX messages_until ON {schema}.messages (until_ms);
CREATE SEQUENCE {schema}.message_ids;

-- The connections that are present in a channel.
CREATE TABLE {schema}.presence (
    channel bytea NOT NULL,
    client bytea NOT NULL,
    "user" bytea NOT NULL,
    info bytea NOT NULL,
    until_ms bigint NOT NULL,
    PRIMARY KEY (channel, client)
);
CREATE INDEX presence_user ON {schema}.presence (channel, "user");
CREATE INDEX presence_until ON {schema}.presence (until_ms);

-- Users that may not subscribe to a channel.
CREATE TABLE {schema}.revocations (
    channel bytea NOT NULL,
    "user" bytea NOT NULL,
    until_ms bigint NOT NULL,
    PRIMARY KEY (channel, "user")
);
CREATE INDEX revocations_until ON {schema}.revocations (until_ms);

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
