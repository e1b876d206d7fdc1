# One image for every service; the arguments say which: router, delivery, reaper, or none for all.
# There is no build: Node runs the TypeScript sources.
FROM node:24-bookworm-slim
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY libs libs
COPY services services
# A registry behind a certificate authority of your own: --secret id=extra_ca,src=<its .pem file>.
RUN --mount=type=secret,id=extra_ca,target=/run/extra-ca.pem \
    NODE_EXTRA_CA_CERTS=/run/extra-ca.pem npm ci --omit=dev --omit=optional --workspace=@sluice/all-in-one \
    && npm cache clean --force \
    && install -d -o node -g node /data
USER node
ENV NODE_ENV=production SLUICE_HTTP_HOST=0.0.0.0 SLUICE_AMQP_HOST=0.0.0.0 SLUICE_DATA_DIR=/data
VOLUME /data
EXPOSE 8080 5672
ENTRYPOINT ["node", "services/all-in-one/src/main.ts"]
