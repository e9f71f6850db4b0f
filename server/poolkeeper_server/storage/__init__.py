"""The only place that knows a database: schema, migrations, the writer's transactions and the readers' queries."""
