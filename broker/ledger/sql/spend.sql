select deployment, executions, cost_nano_usd from infermq.spend where day = $1
