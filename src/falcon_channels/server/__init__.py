"""The WebSocket protocol class for uvicorn, and the server command."""
