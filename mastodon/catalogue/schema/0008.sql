-- Schema 8: what a machine keeps is what is there: a pack that is gone counts no more, one copy of each counts.

UPDATE machines SET kept_bytes = coalesce((SELECT sum(size) FROM packs
    WHERE packs.machine = machines.number AND packs.copies > 0), 0);
