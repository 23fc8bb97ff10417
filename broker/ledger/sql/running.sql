select job, attempt, deployment, model, lane, tenant, tokens from infermq.running
