"""What ExpiryTrack shows of itself while it works; nothing here changes what is collected."""
