-- One DMS call for wrk to repeat: DMS_OPERATION and DMS_BODY in the environment say which.

wrk.method = "POST"
wrk.body = os.getenv("DMS_BODY")
wrk.headers["Content-Type"] = "application/x-amz-json-1.1"
wrk.headers["X-Amz-Target"] = "AmazonDMSv20160101." .. os.getenv("DMS_OPERATION")
wrk.headers["Authorization"] = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dms/aws4_request, "
	.. "SignedHeaders=host, Signature=0"
