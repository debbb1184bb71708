-- Schema 2: the settings that the ledger's policy entries make, and a short way to the pairs that count.

CREATE TABLE settings (
    -- The newest value of each; tenant and machine are empty where the setting is for the whole server.
    name TEXT NOT NULL,
    tenant BLOB NOT NULL,
    machine BLOB NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, tenant, machine)
) WITHOUT ROWID;

CREATE INDEX pairs_reenveloped ON pairs (machine) WHERE reenveloped = 1;
