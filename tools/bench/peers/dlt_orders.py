"""AiFi's orders by dlt's REST API source into SQLite, as its documentation recommends for an incremental load.

Arguments: AiFi's address, the token, the folder, the cursor's field, and the parameter that takes it.
"""

import sys

import dlt
from dlt.sources.rest_api import rest_api_source

base_url, token, folder, cursor, since = sys.argv[1:]
source = rest_api_source(
    {
        "client": {
            "base_url": base_url,
            "auth": {"type": "bearer", "token": token},
            "paginator": {"type": "page_number", "base_page": 0, "total_path": None, "stop_after_empty_page": True},
        },
        "resources": [
            {
                "name": "orders",
                "primary_key": "id",
                "write_disposition": "merge",
                "endpoint": {
                    "path": "orders",
                    "data_selector": "data",
                    "params": {
                        "includeProducts": "true",
                        "pageSize": 200,
                        "orderBy": "draftCreatedAt",
                        "direction": "desc",
                        since: "{incremental.start_value}",
                    },
                    "incremental": {"cursor_path": cursor, "initial_value": "2000-01-01T00:00:00.000Z"},
                },
            }
        ],
    }
)
destination = dlt.destinations.sqlalchemy(f"sqlite:///{folder}/orders.db")
pipeline = dlt.pipeline("aifi", pipelines_dir=f"{folder}/state", destination=destination, dataset_name="main")
pipeline.run(source)
