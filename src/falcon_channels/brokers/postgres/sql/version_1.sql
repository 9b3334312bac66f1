-- The tables of version 1. {schema} is replaced by the name of the schema. The files
-- version_2.sql and so on change them. A new installation executes all files, and an upgrade
-- those that are missing. Do not change a file after its release.
--
-- All times are Unix times in milliseconds. A column `until_ms` says when a row expires.

CREATE SCHEMA {schema};
COMMENT ON SCHEMA {schema} IS 'falcon-channels 1';

-- The logs. "top" is the offset of the newest publication. The publications in the log
-- have offsets above "low". "run" identifies the server that has written the log. After
-- "forget_ms" the log may be removed.
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
    forget_ms bigint
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
