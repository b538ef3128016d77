// Replays the vectors: the bytes of every tensor on any system with Swift, decoded files and answers where Core ML is.

import Foundation
import QtoolsPreparation
import QtoolsVision
import XCTest

final class ReplayTests: XCTestCase {
    private var folder = URL(fileURLWithPath: "vectors")

    override func setUpWithError() throws {
        folder = try XCTUnwrap(Bundle.module.url(forResource: "vectors", withExtension: nil))
    }

    private func content(_ name: String) throws -> [UInt8] {
        return [UInt8](try Data(contentsOf: folder.appendingPathComponent(name)))
    }

    private func recorded() throws -> Recorded {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        return try decoder.decode(Recorded.self, from: Data(try content("vectors.json")))
    }

    private func picture(_ vector: RecordedVector) throws -> Picture {
        return Picture(height: vector.height, width: vector.width, rgb: try content(vector.rgb))
    }

    func testTheVectorsAreOfThisArtifact() throws {
        XCTAssertEqual(try recorded().artifactSha256, try Assets.contract().artifact.sha256)
        XCTAssertFalse(try recorded().vectors.isEmpty)
    }

    func testEveryTensorHasTheRecordedBytes() throws {
        let contract = try Assets.contract()
        for vector in try recorded().vectors {
            let tensor = bytes(of: prepare(try picture(vector), contract), as: contract.input.dtype)
            let wanted = try content(vector.input)
            XCTAssertTrue(tensor == wanted, "vector \(vector.name): the tensor differs")
        }
    }

    func testRecordedOutputsAreDecodedToTheRecordedObjects() throws {
        let contract = try Assets.contract()
        for vector in try recorded().vectors {
            guard let boxes = vector.boxes, let wanted = vector.found else { continue }  // no detector
            let given = zip([vector.output, boxes], contract.outputs)
            let real = try given.map { worth(numbers(of: try content($0), as: $1.dtype), $1) }
            let found = detect(real[0], real[1], contract)
            XCTAssertEqual(found.map { $0.index }, wanted.map { $0.index }, "vector \(vector.name)")
            for (here, there) in zip(found, wanted) {
                let gaps = zip([here.score] + here.box, [there.score] + there.box).map { abs($0 - $1) }
                XCTAssertTrue(gaps.allSatisfy { $0 <= 1e-6 }, "vector \(vector.name): an object lies elsewhere")
            }
        }
    }

    #if canImport(CoreML)
    func testEveryFileIsDecodedToTheRecordedBytes() throws {
        for vector in try recorded().vectors {
            let decoded = try Picture(encoded: Data(try content(vector.png)))
            let wanted = try picture(vector)
            XCTAssertTrue(decoded == wanted, "vector \(vector.name): the decoder gives other pixels")
        }
    }

    func testEveryAnswerIsNearEnough() async throws {
        let network = try await Network.carried()
        let contract = network.contract
        let known = try recorded()
        let tolerances = [known.tolerance, known.boxesTolerance].compactMap { $0?.value }
        for vector in known.vectors {
            let tensor = prepare(try picture(vector), contract)
            keep(bytes(of: tensor, as: contract.input.dtype), "\(vector.name).input.bin")
            let names = [vector.output, vector.boxes].compactMap { $0 }
            for (at, output) in try network.run(tensor).enumerated() {
                let said = contract.outputs[at]
                keep(bytes(of: output, as: said.dtype), "\(vector.name).\(said.name).bin")
                let found = worth(output, said)
                let wanted = worth(numbers(of: try content(names[at]), as: said.dtype), said)
                XCTAssertEqual(found.count, wanted.count, "vector \(vector.name)")
                let gap = zip(found, wanted).map { Double(abs($0 - $1)) }
                let near = !gap.contains { !($0 <= tolerances[at]) }
                XCTAssertTrue(near, "vector \(vector.name): \(said.name) off by \(gap.max() ?? 0)")
            }
        }
    }

    /// Leaves bytes with the result of the test, for `qtools doctor --device-input` and `--device-output`.
    private func keep(_ bytes: [UInt8], _ name: String) {
        let attachment = XCTAttachment(data: Data(bytes), uniformTypeIdentifier: "public.data")
        attachment.name = name
        attachment.lifetime = .keepAlways
        add(attachment)
    }
    #endif
}
