"""The time of India, by which exchanges and tokens go. Nothing else belongs here: whoever wants it imports no more."""

from datetime import timedelta, timezone

# India has kept this one offset since 1945, so a fixed one is Asia/Kolkata without a time zone database.
IST = timezone(timedelta(hours=5, minutes=30), "IST")
