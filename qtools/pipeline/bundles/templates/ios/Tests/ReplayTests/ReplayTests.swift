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

    #if canImport(CoreML)
    func testEveryFileIsDecodedToTheRecordedBytes() throws {
        for vector in try recorded().vectors {
            let decoded = try Picture(encoded: Data(try content(vector.png)))
            let wanted = try picture(vector)
            XCTAssertTrue(decoded == wanted, "vector \(vector.name): the decoder gives other pixels")
        }
    }

    func testEveryAnswerIsNearEnough() async throws {
        let classifier = try await Classifier.carried()
        let contract = classifier.contract
        let tolerance = try recorded().tolerance.value
        for vector in try recorded().vectors {
            let tensor = prepare(try picture(vector), contract)
            let output = try classifier.run(tensor)
            keep(bytes(of: tensor, as: contract.input.dtype), "\(vector.name).input.bin")
            keep(bytes(of: output, as: contract.output.dtype), "\(vector.name).output.bin")
            let found = realNumbers(output, contract)
            let wanted = realNumbers(numbers(of: try content(vector.output), as: contract.output.dtype), contract)
            XCTAssertEqual(found.count, wanted.count, "vector \(vector.name)")
            let gap = zip(found, wanted).map { Double(abs($0 - $1)) }
            XCTAssertFalse(gap.contains { !($0 <= tolerance) }, "vector \(vector.name): off by \(gap.max() ?? 0)")
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
