"""What people feel of a conversation, measured through real WebRTC."""
