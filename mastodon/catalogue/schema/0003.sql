-- Schema 3: what the watch needs to know of machines, conditions that events open and close, and settings as they were.

ALTER TABLE machines ADD COLUMN added_ns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN newest_ns INTEGER NOT NULL DEFAULT 0;          -- newest commit of any status
ALTER TABLE machines ADD COLUMN newest_status INTEGER NOT NULL DEFAULT 0;
ALTER TABLE machines ADD COLUMN complete_ns INTEGER NOT NULL DEFAULT 0;        -- newest complete commit
ALTER TABLE machines ADD COLUMN complete_entry INTEGER NOT NULL DEFAULT 0;     -- its entry in the ledger
ALTER TABLE machines ADD COLUMN partial_since_ns INTEGER NOT NULL DEFAULT 0;   -- first partial one behind it

-- Of machines from before: when they came is at the latest when they made their first pair.
UPDATE machines SET
    added_ns = coalesce((SELECT min(time_ns) FROM pairs WHERE pairs.machine = machines.number), 0),
    newest_ns = coalesce((SELECT time_ns FROM snapshots
        WHERE snapshots.machine = machines.number AND snapshots.sequence = head_sequence), 0),
    newest_status = coalesce((SELECT status FROM snapshots
        WHERE snapshots.machine = machines.number AND snapshots.sequence = head_sequence), 0),
    complete_ns = coalesce((SELECT time_ns FROM snapshots
        WHERE snapshots.machine = machines.number AND status = 1 ORDER BY sequence DESC LIMIT 1), 0),
    complete_entry = EXISTS (SELECT 1 FROM snapshots WHERE snapshots.machine = machines.number AND status = 1),
    partial_since_ns = coalesce((SELECT time_ns FROM snapshots
        WHERE snapshots.machine = machines.number AND status = 2 AND sequence > coalesce(
            (SELECT max(sequence) FROM snapshots AS whole WHERE whole.machine = machines.number AND whole.status = 1), 0)
        ORDER BY sequence LIMIT 1), 0);

-- Whose an event is follows from its machine where it names no tenant.
UPDATE events SET tenant = coalesce((SELECT tenant FROM machines WHERE machines.machine = events.machine), x'')
    WHERE tenant = x'' AND machine <> x'';
DROP INDEX events_tenant;
CREATE INDEX events_tenant ON events (tenant, sequence);
CREATE INDEX events_machine ON events (machine, code, sequence);

CREATE TABLE conditions (
    -- What an event opened and none has closed since.
    code INTEGER NOT NULL,
    tenant BLOB NOT NULL,
    machine BLOB NOT NULL,
    subject TEXT NOT NULL,
    sequence INTEGER NOT NULL,             -- of the event that opened it
    time_ns INTEGER NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (tenant, machine, code, subject)
) WITHOUT ROWID;

CREATE TABLE settings_with_history (
    -- Every value that a setting had, by the ledger's entry that set it; the newest holds.
    name TEXT NOT NULL,
    tenant BLOB NOT NULL,
    machine BLOB NOT NULL,
    sequence INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (name, tenant, machine, sequence)
) WITHOUT ROWID;
INSERT INTO settings_with_history SELECT name, tenant, machine, 0, value FROM settings;
DROP TABLE settings;
ALTER TABLE settings_with_history RENAME TO settings;
