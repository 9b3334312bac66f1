-- What the broker calls. {schema} is replaced by the name of the schema.

CREATE OR REPLACE FUNCTION {schema}.now_ms() RETURNS bigint
LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Which server this is: another one after a fail-over, a restored backup or dump.
CREATE OR REPLACE FUNCTION {schema}.run_id() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT system_identifier::text || '-'
           || left(pg_walfile_name(pg_current_wal_lsn()), 8)
    FROM pg_control_system()
$$;

CREATE OR REPLACE FUNCTION {schema}.new_epoch() RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT left(replace(gen_random_uuid()::text, '-', ''), 16)
$$;

-- Lock the row of a log until the end of the transaction; begin the log where there is
-- none or it may be forgotten. Whoever publishes to a channel queues up here, so that
-- offsets are given out in the order of the commits, which is also that of the
-- notifications.
CREATE OR REPLACE FUNCTION {schema}.open_log(
    p_name bytea, p_meta_ms bigint, p_run text
) RETURNS {schema}.channels
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {schema}.now_ms();
    v_keep bigint := v_now + least(coalesce(p_meta_ms, 86400000), 86400000);
    v_log {schema}.channels;
BEGIN
    LOOP
        SELECT * INTO v_log FROM {schema}.channels WHERE name = p_name FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO {schema}.channels (name, epoch, top, low, run, forget_ms)
        VALUES (p_name, {schema}.new_epoch(), 0, 0, p_run, v_keep)
        ON CONFLICT (name) DO NOTHING;
    END LOOP;
    IF v_log.forget_ms <= v_now THEN
        DELETE FROM {schema}.items WHERE channel = v_log.id;
        UPDATE {schema}.channels
        SET epoch = {schema}.new_epoch(), top = 0, low = 0, run = p_run,
            forget_ms = v_keep
        WHERE id = v_log.id RETURNING * INTO v_log;
    ELSIF p_run <> '' AND v_log.run <> p_run THEN
        -- Perhaps the newest publications are missing here: another log from now on.
        UPDATE {schema}.channels
        SET epoch = {schema}.new_epoch(), run = p_run
        WHERE id = v_log.id RETURNING * INTO v_log;
    END IF;
    RETURN v_log;
END
$$;

-- Send a notification; what is too long for one is left out, and read from a table.
CREATE OR REPLACE FUNCTION {schema}.tell(
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

-- Append publications to one channel and announce them when the transaction commits.
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
    -- Holds in this function only: the deadline of a publish in another's transaction.
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
            PERFORM {schema}.tell(
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
        -- Not the youngest: others may still have to read what a notification left out.
        DELETE FROM {schema}.items AS i
        WHERE i.channel = v_log.id AND i."offset" <= v_top - p_size
              AND i.stored_ms < v_now - 10000;
    END IF;
END
$$;

-- Send what is in no log: a live publication ('l'), a signal ('s'), a control message
-- ('c'). Control messages are kept for an hour, for processes whose link is lost.
CREATE OR REPLACE FUNCTION {schema}.send(
    p_notify text, p_kind text, p_name bytea, p_body bytea
) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint;
    v_id bigint;
    v_whole boolean;
BEGIN
    IF p_kind = 'c' THEN
        -- So that ids are in the order of the commits.
        PERFORM pg_advisory_xact_lock(hashtext(p_notify), -1);
    END IF;
    v_id := nextval('{schema}.message_ids');
    v_now := {schema}.now_ms();
    v_whole := {schema}.tell(
        p_notify,
        p_kind || encode(p_name, 'hex') || ' ' || v_id || '  ' || v_now || ' ',
        p_body
    );
    IF p_kind = 'c' THEN
        INSERT INTO {schema}.messages VALUES (v_id, true, p_body, v_now + 3600000);
    ELSIF NOT v_whole THEN
        INSERT INTO {schema}.messages VALUES (v_id, false, p_body, v_now + 60000);
    END IF;
END
$$;

-- The first row is the position: offset and epoch. The others are publications.
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
        -- Nothing is lost with a log that is empty or new: no need to wait for the disk.
        PERFORM set_config('synchronous_commit', 'off', true);
        v_log := {schema}.open_log(p_name, p_meta_ms, v_run);
    ELSIF p_limit = 0 AND v_log.forget_ms < v_now + p_meta_ms / 2 THEN
        -- Whoever compares positions has subscribers, and wants the log to stay.
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

CREATE OR REPLACE FUNCTION {schema}.remove_history(p_name bytea) RETURNS void
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_log {schema}.channels;
BEGIN
    UPDATE {schema}.channels SET low = top WHERE name = p_name RETURNING * INTO v_log;
    DELETE FROM {schema}.items WHERE channel = v_log.id AND "offset" <= v_log.low;
END
$$;

-- Presence is changed by one transaction at a time for each of 16 parts of the channels,
-- so that "first" and "last" are decided once. It need not wait for the disk: what a crash
-- takes back is refreshed, or expires.
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

CREATE OR REPLACE FUNCTION {schema}.add_presence(
    p_ttl_ms bigint, p_names bytea[], p_clients bytea[], p_users bytea[],
    p_infos bytea[]
) RETURNS boolean[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_until bigint;
    v_told boolean[] := '{}';
BEGIN
    PERFORM {schema}.lock_presence(p_names);
    v_until := {schema}.now_ms() + p_ttl_ms;
    FOR i IN 1 .. array_length(p_names, 1) LOOP
        v_told := v_told || NOT EXISTS (
            SELECT 1 FROM {schema}.presence
            WHERE channel = p_names[i] AND "user" = p_users[i]
        );
        INSERT INTO {schema}.presence
        VALUES (p_names[i], p_clients[i], p_users[i], p_infos[i], v_until)
        ON CONFLICT (channel, client) DO UPDATE
        SET "user" = excluded."user", info = excluded.info,
            until_ms = excluded.until_ms;
    END LOOP;
    RETURN v_told;
END
$$;

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

CREATE OR REPLACE FUNCTION {schema}.expire_presence(p_limit bigint)
RETURNS TABLE (channel bytea, info bytea, last boolean)
LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
    v_now bigint := {schema}.now_ms();
    v_names bytea[];
    v_gone record;
BEGIN
    SELECT array_agg(DISTINCT e.channel) INTO v_names FROM (
        SELECT p.channel FROM {schema}.presence AS p
        WHERE p.until_ms <= v_now ORDER BY p.until_ms LIMIT p_limit
    ) AS e;
    IF v_names IS NULL THEN
        RETURN;
    END IF;
    PERFORM {schema}.lock_presence(v_names);
    FOR v_gone IN
        SELECT p.channel, p.client, p."user", p.info FROM {schema}.presence AS p
        WHERE p.until_ms <= v_now AND p.channel = ANY (v_names)
        ORDER BY p.until_ms LIMIT p_limit
    LOOP
        DELETE FROM {schema}.presence AS p
        WHERE p.channel = v_gone.channel AND p.client = v_gone.client;
        RETURN QUERY SELECT v_gone.channel, v_gone.info, NOT EXISTS (
            SELECT 1 FROM {schema}.presence AS p
            WHERE p.channel = v_gone.channel AND p."user" = v_gone."user"
        );
    END LOOP;
END
$$;

-- Remove what has expired; one process at a time. Returns whether there is more.
CREATE OR REPLACE FUNCTION {schema}.sweep() RETURNS boolean
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_now bigint := {schema}.now_ms();
    v_count bigint;
    v_most bigint := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('{schema}.sweep'), 0) THEN
        RETURN false;
    END IF;
    DELETE FROM {schema}.items WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.items WHERE until_ms <= v_now LIMIT 5000
    ));
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_most := greatest(v_most, v_count);
    DELETE FROM {schema}.keys WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM {schema}.keys WHERE until_ms <= v_now LIMIT 5000
    )) AND until_ms <= v_now;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    v_most := greatest(v_most, v_count);
    DELETE FROM {schema}.messages WHERE until_ms <= v_now;
    DELETE FROM {schema}.revocations WHERE until_ms <= v_now;
    -- Logs that were forgotten a minute ago; nobody waits for one that is in use.
    WITH forgotten AS (
        DELETE FROM {schema}.channels WHERE id IN (
            SELECT id FROM {schema}.channels WHERE forget_ms <= v_now - 60000
            LIMIT 500 FOR UPDATE SKIP LOCKED
        ) RETURNING id
    )
    DELETE FROM {schema}.items WHERE channel IN (SELECT id FROM forgotten);
    RETURN v_most >= 5000;
END
$$;
