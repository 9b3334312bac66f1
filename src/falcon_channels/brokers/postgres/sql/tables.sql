-- {schema} is replaced by the name of the schema, {version} by its version.

CREATE SCHEMA {schema};
COMMENT ON SCHEMA {schema} IS 'falcon-channels {version}';

-- Logs. "top" is the offset of the newest publication, "run" the server that wrote it.
-- The row is what publishers of a channel queue up at; half of each page is left free,
-- so that its new versions stay in the page and touch no index.
CREATE TABLE {schema}.channels (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name bytea NOT NULL UNIQUE,
    epoch text NOT NULL,
    top bigint NOT NULL,
    low bigint NOT NULL,
    run text NOT NULL,
    forget_ms bigint
) WITH (fillfactor = 50);

CREATE TABLE {schema}.items (
    channel bigint NOT NULL,
    "offset" bigint NOT NULL,
    stored_ms bigint NOT NULL,
    until_ms bigint,
    body bytea NOT NULL,
    PRIMARY KEY (channel, "offset")
);
CREATE INDEX items_until ON {schema}.items (until_ms) WHERE until_ms IS NOT NULL;

CREATE TABLE {schema}.keys (
    channel bytea NOT NULL,
    key bytea NOT NULL,
    "offset" bigint NOT NULL,
    epoch text NOT NULL,
    until_ms bigint NOT NULL,
    PRIMARY KEY (channel, key)
);
CREATE INDEX keys_until ON {schema}.keys (until_ms);

-- Control messages, and what is in no log and too long for a notification.
CREATE TABLE {schema}.messages (
    id bigint PRIMARY KEY,
    control boolean NOT NULL,
    body bytea NOT NULL,
    until_ms bigint NOT NULL
);
CREATE INDEX messages_until ON {schema}.messages (until_ms);
CREATE SEQUENCE {schema}.message_ids;

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

CREATE TABLE {schema}.revocations (
    channel bytea NOT NULL,
    "user" bytea NOT NULL,
    until_ms bigint NOT NULL,
    PRIMARY KEY (channel, "user")
);
CREATE INDEX revocations_until ON {schema}.revocations (until_ms);
