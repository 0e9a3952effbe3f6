"""How bytes reach the server and come back; one module for each HTTP library, all behind `_base`.

Nothing here knows what a job is. A transport sends, streams and closes, never follows a redirect,
never retries, and says of a request that failed whether it may have reached the server.
"""
