"""The console: the web interface at `/` for operators and clients, rendered by the server."""
