-- Schema 6: snapshots whose machine remembered another one than they follow, and what clients read.

CREATE TABLE jumps (
    machine INTEGER NOT NULL,
    sequence INTEGER NOT NULL,             -- of the snapshot
    remembered BLOB NOT NULL,
    kind INTEGER NOT NULL,
    reached INTEGER NOT NULL,              -- sequence of the snapshot that was remembered, 0 for one that is not here
    PRIMARY KEY (machine, sequence)
) WITHOUT ROWID;
CREATE INDEX jumps_remembered ON jumps (machine, remembered);

CREATE INDEX snapshots_hash ON snapshots (machine, hash);

CREATE TABLE reads (
    -- What a client read of a machine within a stretch of time; label and tenant are those of that time.
    sequence INTEGER PRIMARY KEY,          -- of the ledger's entry
    pin BLOB NOT NULL,
    label TEXT NOT NULL,
    tenant BLOB NOT NULL,
    machine BLOB NOT NULL,
    since_ns INTEGER NOT NULL,
    time_ns INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    blobs INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE INDEX reads_tenant ON reads (tenant, sequence);
CREATE INDEX reads_pin ON reads (pin) WHERE blobs > 0;
