-- The tables. {schema} is replaced by the name of the schema, {version} by its version.
--
-- All times are Unix times in milliseconds. A column `until_ms` says when a row expires.

CREATE SCHEMA {schema};
COMMENT ON SCHEMA {schema} IS 'falcon-channels {version}';

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

-- The functions that the broker calls. {schema} is replaced by the name of the schema.

-- Return the current Unix time in milliseconds, also within a long transaction.
CREATE OR REPLACE FUNCTION {schema}.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Return the identity of this server. It differs after a fail-over, and after a backup or
-- dump was restored.
CREATE OR REPLACE FUNCTION {schema}.run_id() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT system_identifier::text || '-'
           || left(pg_walfile_name(pg_current_wal_lsn()), 8)
    FROM pg_control_system()
$$;

-- Return a random epoch.
CREATE OR REPLACE FUNCTION {schema}.new_epoch() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT left(replace(gen_random_uuid()::text, '-', ''), 16)
$$;

-- Lock the row of a log until the end of the transaction, and return the row. Create the
-- log if it does not exist, and start a new epoch if it has expired.
--
-- All publishers of a channel wait here for each other. Offsets are therefore assigned in
-- the order of the commits, which is also the order of the notifications.
CREATE OR REPLACE FUNCTION {schema}.open_log(
    p_name bytea, p_meta_ms bigint, p_run text
) RETURNS {schema}.channels
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {schema}.now_ms();
    v_forget_ms bigint := v_now + least(coalesce(p_meta_ms, 86400000), 86400000);
    v_log {schema}.channels;
BEGIN
    LOOP
        SELECT * INTO v_log FROM {schema}.channels WHERE name = p_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {schema}.channels (name, epoch, top, low, run, forget_ms)
        VALUES (p_name, {schema}.new_epoch(), 0, 0, p_run, v_forget_ms)
        ON CONFLICT (name) DO NOTHING;
    END LOOP;
    IF v_log.forget_ms <= v_now THEN
        DELETE FROM {schema}.items WHERE channel = v_log.id;
        UPDATE {schema}.channels
        SET epoch = {schema}.new_epoch(), top = 0, low = 0, run = p_run,
            forget_ms = v_forget_ms
        WHERE id = v_log.id RETURNING * INTO v_log;
    ELSIF p_run <> '' AND v_log.run <> p_run THEN
        -- Another server has written this log. The newest publications may be missing
        -- here, and their offsets would be assigned again. So a new epoch starts.
        UPDATE {schema}.channels
        SET epoch = {schema}.new_epoch(), run = p_run
        WHERE id = v_log.id RETURNING * INTO v_log;
    END IF;
    RETURN v_log;
END
$$;

-- Send a notification. If the body is too long for one, send "@" instead; the receivers
-- then read the body from a table. Return whether the body was sent.
CREATE OR REPLACE FUNCTION {schema}.notify(
    p_notify text, p_head text, p_body bytea
) RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_text text := encode(p_body, 'base64');
BEGIN
    IF length(p_head) + length(v_text) < 7900 THEN
        PERFORM pg_notify(p_notify, p_head || v_text);
        RETURN true;
    END IF;
    PERFORM pg_notify(p_notify, p_head || '@');
    RETURN false;
END
$$;

-- Append publications to one channel, and announce them when the transaction commits.
-- Return a row for each publication.
CREATE OR REPLACE FUNCTION {schema}.publish(
    p_notify text, p_lock_ms integer, p_run text, p_name bytea, p_size bigint,
    p_ttl_ms bigint, p_meta_ms bigint, p_key_ms bigint, p_bodies bytea[],
    p_keys bytea[]
) RETURNS TABLE (duplicate boolean, "offset" bigint, epoch text)
LANGUAGE plpgsql VOLATILE SET lock_timeout = 0 AS $$
#variable_conflict use_column
DECLARE
    v_log {schema}.channels;
    v_now bigint;
    v_top bigint := 0;
    v_epoch text := '';
    v_id bigint;
    v_name text := encode(p_name, 'hex');
    v_offset bigint;
BEGIN
    -- The deadline of a publish in a transaction of the application. The SET clause of this
    -- function restores the application's value at the end.
    PERFORM set_config('lock_timeout', p_lock_ms::text, true);
    IF p_size > 0 THEN
        v_log := {schema}.open_log(p_name, p_meta_ms, coalesce(p_run, {schema}.run_id()));
        v_top := v_log.top;
        v_epoch := v_log.epoch;
    END IF;
    v_now := {schema}.now_ms();
    FOR i IN 1 .. array_length(p_bodies, 1) LOOP
        v_offset := CASE WHEN p_size > 0 THEN v_top + 1 ELSE 0 END;
        IF p_keys[i] IS NOT NULL THEN
            INSERT INTO {schema}.keys AS k
            VALUES (p_name, p_keys[i], v_offset, v_epoch, v_now + p_key_ms)
            ON CONFLICT (channel, key) DO UPDATE
            SET "offset" = excluded."offset", epoch = excluded.epoch,
                until_ms = excluded.until_ms
            WHERE k.until_ms <= v_now;
            IF NOT FOUND THEN
                RETURN QUERY SELECT true, k."offset", k.epoch FROM {schema}.keys AS k
                WHERE k.channel = p_name AND k.key = p_keys[i];
                CONTINUE;
            END IF;
        END IF;
        IF p_size > 0 THEN
            v_top := v_offset;
            INSERT INTO {schema}.items
            VALUES (v_log.id, v_offset, v_now, v_now + p_ttl_ms, p_bodies[i]);
            PERFORM {schema}.notify(
                p_notify,
                'p' || v_name || ' ' || v_offset || ' ' || v_epoch || ' ' || v_now || ' ',
                p_bodies[i]
            );
        ELSE
            PERFORM {schema}.send(p_notify, 'l', p_name, p_bodies[i]);
        END IF;
        RETURN QUERY SELECT false, v_offset, v_epoch;
    END LOOP;
    IF p_size > 0 AND v_top > v_log.top THEN
        UPDATE {schema}.channels
        SET top = v_top, forget_ms = v_now + p_meta_ms WHERE id = v_log.id;
        -- Publications of the last 10 s stay, because other processes may still read those
        -- that were too long for a notification.
        DELETE FROM {schema}.items AS i
        WHERE i.channel = v_log.id AND i."offset" <= v_top - p_size
              AND i.stored_ms < v_now - 10000;
    END IF;
END
$$;

-- Send a message that belongs to no log: a publication ('l'), a signal ('s') or a control
-- message ('c'). Control messages are stored for an hour, for processes whose link is lost.
CREATE OR REPLACE FUNCTION {schema}.send(
    p_notify text, p_kind text, p_name bytea, p_body bytea
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint;
    v_id bigint;
    v_sent boolean;
BEGIN
    IF p_kind = 'c' THEN
        -- Only one transaction at a time, so that the ids are in the order of the commits.
        PERFORM pg_advisory_xact_lock(hashtext(p_notify), -1);
    END IF;
    v_id := nextval('{schema}.message_ids');
    v_now := {schema}.now_ms();
    v_sent := {schema}.notify(
        p_notify,
        p_kind || encode(p_name, 'hex') || ' ' || v_id || '  ' || v_now || ' ',
        p_body
    );
    IF p_kind = 'c' THEN
        INSERT INTO {schema}.messages VALUES (v_id, true, p_body, v_now + 3600000);
    ELSIF NOT v_sent THEN
        INSERT INTO {schema}.messages VALUES (v_id, false, p_body, v_now + 60000);
    END IF;
END
$$;

-- Read a log. The first row is the position (offset and epoch); the other rows are the
-- publications.
CREATE OR REPLACE FUNCTION {schema}.history(
    p_run text, p_name bytea, p_size bigint, p_ttl_ms bigint, p_meta_ms bigint,
    p_since bigint, p_limit bigint, p_reverse boolean
) RETURNS TABLE ("offset" bigint, epoch text, stored_ms bigint, body bytea)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_log {schema}.channels;
    v_now bigint := {schema}.now_ms();
    v_run text := coalesce(p_run, {schema}.run_id());
    v_above bigint;
    v_below bigint;
    v_after bigint := coalesce(v_now - p_ttl_ms, -1);
BEGIN
    SELECT * INTO v_log FROM {schema}.channels AS c WHERE c.name = p_name;
    IF NOT FOUND OR v_log.forget_ms <= v_now OR (v_run <> '' AND v_log.run <> v_run) THEN
        -- The transaction need not wait for the disk, because an empty or new log loses
        -- nothing in a crash.
        PERFORM set_config('synchronous_commit', 'off', true);
        v_log := {schema}.open_log(p_name, p_meta_ms, v_run);
    ELSIF p_limit = 0 AND v_log.forget_ms < v_now + p_meta_ms / 2 THEN
        -- The process only reads the position, because it has subscribers. The removal of
        -- the log is therefore postponed.
        PERFORM set_config('synchronous_commit', 'off', true);
        UPDATE {schema}.channels AS c SET forget_ms = v_now + p_meta_ms
        WHERE c.id = (
            SELECT s.id FROM {schema}.channels AS s
            WHERE s.id = v_log.id FOR UPDATE SKIP LOCKED
        );
    END IF;
    RETURN QUERY SELECT v_log.top, v_log.epoch, NULL::bigint, NULL::bytea;
    v_above := greatest(v_log.low, v_log.top - p_size);
    v_below := v_log.top + 1;
    IF p_reverse THEN
        v_below := least(v_below, p_since);
        RETURN QUERY SELECT i."offset", NULL::text, i.stored_ms, i.body
        FROM {schema}.items AS i
        WHERE i.channel = v_log.id AND i."offset" > v_above AND i."offset" < v_below
              AND i.stored_ms > v_after
        ORDER BY i."offset" DESC LIMIT p_limit;
    ELSE
        v_above := greatest(v_above, p_since);
        RETURN QUERY SELECT i."offset", NULL::text, i.stored_ms, i.body
        FROM {schema}.items AS i
        WHERE i.channel = v_log.id AND i."offset" > v_above AND i."offset" < v_below
              AND i.stored_ms > v_after
        ORDER BY i."offset" LIMIT p_limit;
    END IF;
END
$$;

-- Remove all publications of a log.
CREATE OR REPLACE FUNCTION {schema}.remove_history(p_name bytea) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_log {schema}.channels;
BEGIN
    UPDATE {schema}.channels SET low = top WHERE name = p_name RETURNING * INTO v_log;
    DELETE FROM {schema}.items WHERE channel = v_log.id AND "offset" <= v_log.low;
END
$$;

-- Lock the presence of some channels until the end of the transaction. The channels are
-- divided into 16 parts, and each part is changed by one transaction at a time. Otherwise
-- two transactions could both find that an entry is the first or last of its user.
--
-- The transaction need not wait for the disk, because an entry that a crash has undone is
-- refreshed or expires.
CREATE OR REPLACE FUNCTION {schema}.lock_presence(p_names bytea[]) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_part integer;
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    FOR v_part IN
        SELECT DISTINCT abs(hashtext(encode(name, 'hex')) % 16) AS part
        FROM unnest(p_names) AS name ORDER BY part
    LOOP
        PERFORM pg_advisory_xact_lock(hashtext('{schema}.presence'), v_part);
    END LOOP;
END
$$;

-- Add or refresh presence entries. Return for each whether it is the first of its user, and
-- whether it is new.
CREATE OR REPLACE FUNCTION {schema}.add_entries(
    p_ttl_ms bigint, p_names bytea[], p_clients bytea[], p_users bytea[],
    p_infos bytea[]
) RETURNS TABLE (first boolean, new boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_until bigint;
    v_first boolean;
BEGIN
    PERFORM {schema}.lock_presence(p_names);
    v_until := {schema}.now_ms() + p_ttl_ms;
    FOR i IN 1 .. array_length(p_names, 1) LOOP
        v_first := NOT EXISTS (
            SELECT 1 FROM {schema}.presence
            WHERE channel = p_names[i] AND "user" = p_users[i]
        );
        UPDATE {schema}.presence
        SET "user" = p_users[i], info = p_infos[i], until_ms = v_until
        WHERE channel = p_names[i] AND client = p_clients[i];
        IF FOUND THEN
            RETURN QUERY SELECT v_first, false;
        ELSE
            INSERT INTO {schema}.presence
            VALUES (p_names[i], p_clients[i], p_users[i], p_infos[i], v_until);
            RETURN QUERY SELECT v_first, true;
        END IF;
    END LOOP;
END
$$;

-- Remove a presence entry. Return its info, and whether it was the last of its user; no row
-- if there was no entry.
CREATE OR REPLACE FUNCTION {schema}.remove_presence(p_name bytea, p_client bytea)
RETURNS TABLE (info bytea, last boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_user bytea;
    v_info bytea;
BEGIN
    PERFORM {schema}.lock_presence(ARRAY[p_name]);
    DELETE FROM {schema}.presence AS p WHERE p.channel = p_name AND p.client = p_client
    RETURNING p."user", p.info INTO v_user, v_info;
    IF FOUND THEN
        RETURN QUERY SELECT v_info, NOT EXISTS (
            SELECT 1 FROM {schema}.presence
            WHERE channel = p_name AND "user" = v_user
        );
    END IF;
END
$$;

-- Remove expired presence entries, and return them.
CREATE OR REPLACE FUNCTION {schema}.expire_presence(p_limit bigint)
RETURNS TABLE (channel bytea, info bytea, last boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := {schema}.now_ms();
    v_names bytea[];
    v_expired record;
BEGIN
    SELECT array_agg(DISTINCT e.channel) INTO v_names FROM (
        SELECT p.channel FROM {schema}.presence AS p
        WHERE p.until_ms <= v_now ORDER BY p.until_ms LIMIT p_limit
    ) AS e;
    IF v_names IS NULL THEN
        RETURN;
    END IF;
    PERFORM {schema}.lock_presence(v_names);
    FOR v_expired IN
        SELECT p.channel, p.client, p."user", p.info FROM {schema}.presence AS p
        WHERE p.until_ms <= v_now AND p.channel = ANY (v_names)
        ORDER BY p.until_ms LIMIT p_limit
    LOOP
        DELETE FROM {schema}.presence AS p
        WHERE p.channel = v_expired.channel AND p.client = v_expired.client;
        RETURN QUERY SELECT v_expired.channel, v_expired.info, NOT EXISTS (
            SELECT 1 FROM {schema}.presence AS p
            WHERE p.channel = v_expired.channel AND p."user" = v_expired."user"
        );
    END LOOP;
END
$$;

-- Remove a limited number of expired rows; only one process at a time. Return whether more
-- rows have expired.
CREATE OR REPLACE FUNCTION {schema}.sweep() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {schema}.now_ms();
    v_count bigint;
    v_max bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('{schema}.sweep'), 0) THEN
        RETURN false;
    END IF;
    DELETE FROM {schema}.items WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.items WHERE until_ms <= v_now LIMIT 5000
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    DELETE FROM {schema}.keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.keys WHERE until_ms <= v_now LIMIT 5000
    )) AND until_ms <= v_now;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_max := greatest(v_max, v_count);
    DELETE FROM {schema}.messages WHERE until_ms <= v_now;
    DELETE FROM {schema}.revocations WHERE until_ms <= v_now;
    -- Logs that expired a minute ago or earlier. A log locked by a publish is skipped.
    WITH forgotten AS (
        DELETE FROM {schema}.channels WHERE id IN (
            SELECT id FROM {schema}.channels WHERE forget_ms <= v_now - 60000
            LIMIT 500 FOR UPDATE SKIP LOCKED
        ) RETURNING id
    )
    DELETE FROM {schema}.items WHERE channel IN (SELECT id FROM forgotten);
    RETURN v_max >= 5000;
END
$$;
