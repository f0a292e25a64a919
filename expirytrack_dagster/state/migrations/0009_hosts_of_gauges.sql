-- Hosts number their processes alike, so a gauge of a process says on which host that is, and one of a host which.
ALTER TABLE metrics ADD COLUMN host TEXT;  -- as in processes.py; null for what describes the home, '' where not known

UPDATE metrics SET host = ''
WHERE pid IS NOT NULL
   OR name IN ('expirytrack_network_received_bytes_per_second', 'expirytrack_network_sent_bytes_per_second');
