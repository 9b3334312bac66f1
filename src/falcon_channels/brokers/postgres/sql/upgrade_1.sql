-- Changes the tables of version 1 to those of version {version}.

COMMENT ON SCHEMA {schema} IS 'falcon-channels {version}';

ALTER TABLE {schema}.channels
    ADD ended bytea, ADD version bigint, ADD version_epoch bytea;

DROP FUNCTION {schema}.publish(
    text, integer, text, bytea, bigint, bigint, bigint, bigint, bytea[], bytea[]
);
