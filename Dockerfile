# One image for every service; the arguments say which: router, delivery, reaper, or none for all.
# There is no build step of ours: Node runs the TypeScript sources.
FROM node:24-bookworm-slim AS packages
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
COPY libs libs
COPY services services
# A registry behind a certificate authority of your own: --secret id=extra_ca,src=<its .pem file>.
# Source maps and declarations are for editors.
RUN --mount=type=secret,id=extra_ca,target=/run/extra-ca.pem \
    NODE_EXTRA_CA_CERTS=/run/extra-ca.pem npm ci --omit=dev --omit=optional --workspace=@sluice/all-in-one \
    && find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.mts' -o -name '*.d.cts' \) -delete \
    && install -d -o 1000 -g 1000 /data

FROM debian:bookworm-slim
ARG VERSION=0.1.0 REVISION=unknown
LABEL org.opencontainers.image.title="Sluice" \
      org.opencontainers.image.description="A message broker on Redis Streams" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/debian:bookworm-slim"
WORKDIR /app
# Without npm and a compiler's headers, which the image of Node has.
COPY --from=packages /usr/local/bin/node /usr/local/bin/node
COPY --from=packages --chown=1000:1000 /data /data
COPY --from=packages /app /app
# A number, so that Kubernetes can see that it is not root.
USER 1000:1000
ENV NODE_ENV=production SLUICE_HTTP_HOST=0.0.0.0 SLUICE_AMQP_HOST=0.0.0.0 SLUICE_DATA_DIR=/data
VOLUME /data
EXPOSE 8080 5672
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["node", "services/all-in-one/src/healthy.ts"]
# Node is the first process: it takes signals itself, and starts no children but its own workers.
ENTRYPOINT ["node", "services/all-in-one/src/main.ts"]
